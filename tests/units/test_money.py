import json
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from payment_service.money import MAX_TIYN, Money

amounts = st.integers(0, MAX_TIYN).map(Money)


@given(amounts)
@example(Money(0))
@example(Money(1))
@example(Money(MAX_TIYN))
def test_money_round_trips_through_every_way_of_writing_it(money: Money) -> None:
    assert Money.from_tenge(str(money)) == money
    assert Money.from_tenge(money.tenge) == money
    assert Money.from_tenge(money.tenge.normalize()) == money
    assert Money(money.tiyn) == money
    assert Decimal(json.dumps(money.number)) == money.tenge


@given(amounts)
def test_money_is_written_in_fixed_point_with_two_decimals(money: Money) -> None:
    whole, _, rest = str(money).partition(".")
    assert whole.isdigit()
    assert len(rest) == 2
    assert int(whole) * 100 + int(rest) == money.tiyn


@pytest.mark.parametrize(
    ("tenge", "tiyn"),
    [
        (0, 0),
        (1, 100),
        ("1", 100),
        ("0.5", 50),
        ("0.50", 50),
        ("007", 700),
        ("1.000000000000000000000000000000", 100),
        (Decimal("1E+3"), 1000_00),
        (Decimal("-0"), 0),
        (Decimal("0E-999999"), 0),
        ("99999999.99", MAX_TIYN),
        (99_999_999, 99_999_999_00),
    ],
)
def test_tenge_are_read_exactly(tenge: Decimal | int | str, tiyn: int) -> None:
    assert Money.from_tenge(tenge).tiyn == tiyn


NO_AMOUNTS: list[Any] = [
    "",
    " ",
    "abc",
    "1,5",
    "1 000",
    " 1",
    "1\n",
    "+1",
    "-1",
    "-0.01",
    "1.",
    ".5",
    "1e2",
    "0x10",
    "1_000",
    "NaN",
    "Infinity",
    "\u0661\u0662\u0663",
    "\uff11\uff10\uff10",
    "0.001",
    "100.005",
    "99999999.991",
    "100000000",
    "9" * 31,
    "1." + "0" * 31,
    -1,
    100_000_000,
    10**10_000,
    Decimal("NaN"),
    Decimal("sNaN"),
    Decimal("-NaN"),
    Decimal("Infinity"),
    Decimal("-Infinity"),
    Decimal("-0.01"),
    Decimal("0.001"),
    Decimal("99999999.999"),
    Decimal("1E+999999"),
    Decimal("1E-999999"),
    Decimal("1.00000000000000000000000000000000001"),
    Decimal("99999999.9900000000000000000000000000000001"),
]


@pytest.mark.parametrize("value", NO_AMOUNTS, ids=lambda value: type(value).__name__)
def test_what_is_no_amount_is_refused(value: Decimal | int | str) -> None:
    with pytest.raises(ValueError, match="amount"):
        Money.from_tenge(value)


@pytest.mark.parametrize("value", [1.0, 0.1, float("nan"), True, False, None, b"1", [1], Fraction(1, 2), 1j])
def test_what_may_have_lost_the_amount_already_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="tenge"):
        Money.from_tenge(value)


@pytest.mark.parametrize("value", [1.0, True, "1", Decimal(1), None])
def test_tiyn_are_whole_numbers(value: Any) -> None:
    with pytest.raises(TypeError, match="tiyn"):
        Money(value)


@pytest.mark.parametrize("tiyn", [-1, MAX_TIYN + 1, 10**30])
def test_tiyn_stay_within_the_contract(tiyn: int) -> None:
    with pytest.raises(ValueError, match="between"):
        Money(tiyn)


@given(st.text() | st.decimals(allow_nan=True, allow_infinity=True) | st.integers())
def test_anything_is_an_exact_amount_or_refused(value: Decimal | int | str) -> None:
    try:
        money = Money.from_tenge(value)
    except ValueError:
        return
    assert Decimal(value) * 100 == money.tiyn


@given(st.integers(0, MAX_TIYN), st.integers(0, MAX_TIYN))
def test_sums_and_differences_are_exact_or_refused(one: int, other: int) -> None:
    for expected, made in ((one + other, Money.__add__), (one - other, Money.__sub__)):
        if 0 <= expected <= MAX_TIYN:
            assert made(Money(one), Money(other)) == Money(expected)
        else:
            with pytest.raises(ValueError, match="between"):
                made(Money(one), Money(other))


@given(amounts, amounts)
def test_amounts_compare_as_their_tiyn_do(one: Money, other: Money) -> None:
    assert (one < other, one == other) == (one.tiyn < other.tiyn, one.tiyn == other.tiyn)
