"""No number of a request can keep the service busy: what is absurd is refused by its text."""

import json
from decimal import Decimal

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from payment_service.api.numbers import MAX_DIGITS, MAX_EXPONENT, exact_decimal, exact_int
from tests.api.conftest import SHOP, create_body, problem_of
from tests.support.replies import GoodProxy

ABSURD = ["1e999999999999", "1e-999999999999", "-1E+31", "1e" + "9" * 50_000, "9" * 41, "-" + "9" * 50_000]


@given(st.integers(min_value=-(10**MAX_DIGITS) + 1, max_value=10**MAX_DIGITS - 1))
def test_whole_number_of_usual_length_is_read_exactly(number: int) -> None:
    assert exact_int(str(number)) == number


@given(
    st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**20), max_value=10**20, places=15),
    st.integers(min_value=-MAX_EXPONENT, max_value=MAX_EXPONENT),
)
def test_decimal_of_usual_size_is_read_exactly(mantissa: Decimal, exponent: int) -> None:
    assert exact_decimal(f"{mantissa:f}e{exponent}") == Decimal(f"{mantissa:f}e{exponent}")


@given(st.integers(min_value=MAX_EXPONENT + 1), st.sampled_from(["", "-", "+", "+00", "-000"]))
def test_exponent_beyond_the_limit_is_refused(exponent: int, sign: str) -> None:
    with pytest.raises(ValueError, match="exponent"):
        exact_decimal(f"1e{sign}{exponent}")


@pytest.mark.parametrize("number", ABSURD, ids=lambda number: number[:20])
@pytest.mark.parametrize("field", ["shop_id", "amount", "phone", "message", "order_id", "metadata", "never_heard_of"])
async def test_absurd_number_of_a_body_is_refused_with_a_sentence(
    field: str, number: str, client: httpx.AsyncClient, shops: dict[int, str], proxy: GoodProxy
) -> None:
    body = {name: value for name, value in create_body().items() if name != field}
    content = json.dumps(body)[:-1] + f', "{field}": {number}}}'
    headers = {"Content-Type": "application/json"}
    answer = await client.post("/payments/kaspi/create", content=content, headers=headers)
    problem_of(answer, 422, "validation_failed")
    assert "a number has" in answer.json()["detail"]
    assert proxy.money_calls == 0


QUERIES = [
    ("/payments", "limit"),
    ("/payments", "shop_id"),
    ("/admin/logs", "skip"),
    ("/api/payment/config", "shop_id"),
    (f"/payments/{'0' * 8}-0000-7000-8000-{'0' * 12}", "wait"),
]


@pytest.mark.parametrize("number", ["1e999999999999", "-1e999999999999", "9" * 3000, "NaN", "inf", "0x10"])
@pytest.mark.parametrize(("path", "name"), QUERIES)
async def test_absurd_number_of_a_query_is_refused(
    path: str, name: str, number: str, client: httpx.AsyncClient, shops: dict[int, str]
) -> None:
    problem_of(await client.get(path, params={name: number}), 422, "validation_failed")


async def test_address_with_an_absurd_number_is_refused(client: httpx.AsyncClient, shops: dict[int, str]) -> None:
    for path in (f"/admin/configs/{SHOP}{'0' * 3000}", "/admin/configs/1e999999999999"):
        problem_of(await client.get(path), 422, "validation_failed")
