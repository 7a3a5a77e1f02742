"""``payment-service payments``: what people must look at, and settling it, beside a running service and a worker."""

import json
from typing import Any

import pytest

from tests.support.rig import Rig

pytestmark = pytest.mark.xdist_group("cli")
WHY = "Seen in the merchant cabinet by Aigul"
HTTP_500, HTTP_500_APPLIED = "http_500", "http_500_applied"
NOTHING = "00000000-0000-0000-0000-000000000000"


async def unknown(rig: Rig, course: str) -> tuple[str, str]:
    """A payment that nobody knows the end of: our id, and the word in its message."""
    word = rig.word()
    await rig.queue("create", course)
    answer = await rig.create(message=word)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"]), word


async def unknown_refund(rig: Rig) -> tuple[dict[str, Any], str]:
    """A paid payment, and our id of its refund that nobody knows the end of."""
    payment = await rig.paid()
    await rig.queue("refund", HTTP_500_APPLIED)
    assert (await rig.refund(payment["external_id"], amount=60)).status_code == 202
    [refund] = (await rig.payment(payment["id"]))["refunds"]
    return payment, refund["id"]


def tasks(rig: Rig) -> dict[str, dict[str, Any]]:
    listed = rig.run("payments", "tasks", "--json")
    assert listed.returncode == 0, listed.stderr
    return {task["id"]: task for task in json.loads(listed.stdout)}


async def test_person_finds_the_payment_by_its_code_and_settles_it_as_paid(serving: Rig) -> None:
    payment_id, word = await unknown(serving, HTTP_500_APPLIED)
    task = tasks(serving)[payment_id]
    [call] = await serving.applied(word)  # what the merchant cabinet shows
    assert call["message"] == f"{word} #{task['short_code']}"
    assert (task["phone"], task["organization_bin"], task["amount"]) == ("•••1545", call["organization_bin"], "100.00")
    await serving.sandbox_client.post(f"/_payments/{call['external_id']}/pay")
    settle = ("payments", "settle", payment_id, "--external-id", call["external_id"], "--reason", WHY)
    done = serving.run(*settle, "--paid", "--json")
    assert (done.returncode, json.loads(done.stdout)[0]["state"]) == (0, "paid")
    last = (await serving.payment(payment_id))["history"][-1]
    assert (last["operation_type"], last["reason"]) == ("settle", WHY)
    assert last["actor"].startswith("cli:")
    assert payment_id not in tasks(serving)
    again = serving.run(*settle, "--paid")
    assert (again.returncode, "this one is paid" in again.stderr) == (1, True)


async def test_payment_that_was_never_made_is_settled_as_failed(serving: Rig) -> None:
    payment_id, word = await unknown(serving, HTTP_500)
    assert await serving.applied(word) == []
    assert serving.run("payments", "settle", payment_id, "--failed", "--reason", WHY).returncode == 0
    assert (await serving.payment(payment_id))["failure"] == "settled"


async def test_refund_is_settled(serving: Rig) -> None:
    payment, refund_id = await unknown_refund(serving)
    assert tasks(serving)[refund_id]["amount"] == "60.00"
    done = serving.run("payments", "settle-refund", refund_id, "--succeeded", "--reason", WHY, "--json")
    assert (done.returncode, json.loads(done.stdout)[0]["state"]) == (0, "succeeded")
    assert (await serving.payment(payment["id"]))["refunded_amount"] == 60


async def test_wrong_settlement_is_undone(serving: Rig) -> None:
    payment_id, _word = await unknown(serving, HTTP_500)
    body = {"state": "failed", "reason": WHY}
    assert (await serving.api.post(f"/admin/payments/{payment_id}/settle", json=body)).status_code == 200
    _payment, refund_id = await unknown_refund(serving)
    assert (await serving.api.post(f"/admin/refunds/{refund_id}/settle", json=body)).status_code == 200
    for command, what in (("undo-settle", payment_id), ("undo-settle-refund", refund_id)):
        done = serving.run("payments", command, what, "--reason", "It was there", "--json")
        assert (done.returncode, json.loads(done.stdout)[0]["state"]) == (0, "unknown"), done.stderr
    last = (await serving.payment(payment_id))["history"][-1]
    assert (last["operation_type"], last["reason"]) == ("settle-undo", "It was there")
    assert {payment_id, refund_id} <= tasks(serving).keys()


async def test_what_cannot_be_done_is_told_in_a_sentence(serving: Rig) -> None:
    payment_id, _word = await unknown(serving, HTTP_500)
    _payment, refund_id = await unknown_refund(serving)
    for words, sentence in [
        (("settle", payment_id, "--reason", WHY), "Say one of"),
        (("settle", payment_id, "--paid", "--failed", "--reason", WHY), "Say one of"),
        (("settle", payment_id, "--paid", "--reason", WHY), "is needed"),
        (("settle", payment_id, "--failed", "--reason", "  "), "A reason is"),
        (("settle", payment_id, "--failed", "--reason", "x" * 501), "A reason is"),
        (("settle", payment_id, "--paid", "--external-id", "1", "--reason", WHY), "Nothing was settled"),
        (("settle", payment_id, "--paid", "--external-id", "12 34", "--reason", WHY), "An id of the provider"),
        (("settle", payment_id, "--paid", "--external-id", "1" * 51, "--reason", WHY), "An id of the provider"),
        (("settle", NOTHING, "--failed", "--reason", WHY), "There is no payment"),
        (("settle-refund", refund_id, "--reason", WHY), "Say one of"),
        (("settle-refund", refund_id, "--succeeded", "--failed", "--reason", WHY), "Say one of"),
        (
            ("settle-refund", refund_id, "--succeeded", "--provider-refund-id", "1" * 51, "--reason", WHY),
            "An id of the provider",
        ),
        (("settle-refund", NOTHING, "--failed", "--reason", WHY), "There is no refund"),
        (("undo-settle", payment_id, "--reason", WHY), "so there is nothing to undo"),
        (("undo-settle", payment_id, "--reason", " "), "A reason is"),
        (("undo-settle-refund", refund_id, "--reason", WHY), "so there is nothing to undo"),
    ]:
        done = serving.run("payments", *words)
        assert (done.returncode, done.stdout, sentence in done.stderr) == (1, "", True), (words, done.stderr)
    assert {payment_id, refund_id} <= tasks(serving).keys()


def test_settling_without_a_reason_is_no_command(serving: Rig) -> None:
    done = serving.run("payments", "settle", NOTHING, "--failed")
    assert (done.returncode, "--reason" in done.stderr) == (2, True)


async def test_call_that_may_still_take_effect_is_not_settled_as_failed(serving: Rig) -> None:
    payment_id, _word = await unknown(serving, HTTP_500_APPLIED)
    words = ("payments", "settle", payment_id, "--failed", "--reason", WHY)
    done = serving.run(*words, LATE_EFFECT_S="300")
    assert (done.returncode, "Look again in" in done.stderr) == (1, True)
