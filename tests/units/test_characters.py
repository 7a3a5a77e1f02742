"""Texts: what steers is refused, whatever people write is taken."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from payment_service.characters import checked_text, one_line

REFUSED = [*map(chr, [*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)]), "\ud83e"]


def is_taken(text: str) -> bool:
    try:
        return checked_text(text) == text
    except ValueError:
        return False


@pytest.mark.parametrize("sign", REFUSED, ids=ascii)
def test_what_steers_is_refused(sign: str) -> None:
    assert not is_taken(f"a{sign}b")
    assert one_line(f" a{sign}b\n") == "a b"


@pytest.mark.thorough
def test_everything_else_is_taken() -> None:
    others = map(chr, range(sys.maxunicode + 1))
    taken = "".join(sign for sign in others if sign not in REFUSED and not "\ud800" <= sign <= "\udfff")
    assert is_taken(taken)
    assert {"\u2028", "\ufeff", "\U0001fa77", "\U000e0067", "\U000378ff"} <= set(taken)


@given(st.text(st.characters(exclude_categories=[])))
def test_one_line_can_always_be_kept(text: str) -> None:
    line = one_line(text)
    assert is_taken(line)
    assert len(line.splitlines()) <= 1
    assert one_line(line) == line
