"""Never twice: equal requests at once, through two services."""

import asyncio
from typing import Any

import httpx
import pytest

from tests.support.rig import Rig

pytestmark = pytest.mark.xdist_group("e2e")

AT_ONCE = 50


async def ask_at_once(rig: Rig, **body: Any) -> list[httpx.Response]:
    """The same request from many clients, half of them through each service."""
    keys = body.pop("keys", [None] * AT_ONCE)
    requests = (rig.create(by=rig.clients[number % 2], key=key, **body) for number, key in enumerate(keys))
    return await asyncio.gather(*requests)


@pytest.mark.parametrize("link", [False, pytest.param(True, marks=pytest.mark.thorough)], ids=["phone", "link"])
@pytest.mark.parametrize("how", ["one key", "no key", "one order"])
async def test_fifty_equal_creates_at_once_are_one_payment(rig: Rig, how: str, link: bool) -> None:
    word, code = rig.word(), rig.word().replace(" ", "-")
    all_keys: dict[str, list[str | None]] = {
        "one key": [code] * AT_ONCE,
        "no key": [None] * AT_ONCE,
        "one order": [f"{code}-{number}" for number in range(AT_ONCE)],
    }
    # Nobody pays it meanwhile, however long the fifty take.
    body = {"amount": "100.17", "message": word} | ({"order_id": code} if how == "one order" else {})
    answers = await ask_at_once(rig, keys=all_keys[how], link=link, **body)

    assert len(await rig.applied(word)) == 1
    assert {answer.status_code for answer in answers} <= {200, 409}
    done = [answer for answer in answers if answer.status_code == 200]
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len([answer for answer in done if "Idempotency-Replayed" not in answer.headers]) == 1
    for running in (answer for answer in answers if answer.status_code == 409):
        assert running.json()["code"] == "still_running"
        assert int(running.headers["Retry-After"]) > 0


@pytest.mark.parametrize("how", ["one key", "no key"])
async def test_fifty_equal_refunds_at_once_are_one_refund(rig: Rig, how: str) -> None:
    paid = await rig.paid()
    key = f"refund-{paid['id']}" if how == "one key" else None
    await asyncio.gather(
        *(rig.refund(paid["external_id"], by=rig.clients[number % 2], key=key, amount=1) for number in range(AT_ONCE))
    )
    assert len(await rig.ledger(op="refund", external_id=paid["external_id"])) == 1
    assert [refund["state"] for refund in (await rig.payment(paid["id"]))["refunds"]] == ["succeeded"]


async def test_refunds_at_once_never_exceed_the_payment(rig: Rig) -> None:
    paid = await rig.paid(amount=100)
    amounts = range(26, 46)  # two or three of them fit
    answers = await asyncio.gather(
        *(
            rig.refund(
                paid["external_id"], by=rig.clients[amount % 2], key=f"part-{paid['id']}-{amount}", amount=amount
            )
            for amount in amounts
        )
    )
    by_amount = {amount: answer.status_code for amount, answer in zip(amounts, answers, strict=True)}
    made = [amount for amount, status in by_amount.items() if status == 200]
    refused = [amount for amount, status in by_amount.items() if status == 422]
    assert len(made) + len(refused) == len(amounts)
    assert 0 <= 100 - sum(made) < min(refused)
    assert len(await rig.ledger(op="refund", external_id=paid["external_id"], applied="true")) == len(made)


async def test_payment_of_unknown_end_is_not_made_again(rig: Rig) -> None:
    word, order = rig.word(), rig.word()
    first = await rig.create(phone="77015219027", message=word, order_id=order)
    assert first.status_code == 202
    for by, key in ((rig.clients[0], None), (rig.clients[1], f"new-key-{first.json()['id']}")):
        again = await rig.create(by=by, key=key, phone="77015219027", message=word, order_id=order)
        assert (again.status_code, again.json()["id"]) == (202, first.json()["id"])
    assert len(await rig.applied(word)) == 1


async def test_same_words_of_another_caller_are_another_payment(rig: Rig) -> None:
    other = rig.client(rig.services[1], rig.make_key("other-shop-system", "payments:write"))
    word = rig.word()
    answers = [await rig.create(by=by, message=word) for by in (rig.api, other)]
    assert len({answer.json()["id"] for answer in answers}) == 2
    assert len(await rig.applied(word)) == 2
