import re

import pytest

from kaspi_sandbox import rules

from .calls import SELLER, Caller


async def test_a_queued_rule_takes_the_next_calls_and_then_ends(caller: Caller) -> None:
    queued = await caller.queue("create", "http_500", times=2)
    assert queued.json() == {"op": "create", "course": "http_500", "queued": 2}
    assert [(await caller.create()).status_code for _ in range(3)] == [500, 500, 200]
    assert [entry["course"] for entry in await caller.ledger()] == ["http_500", "http_500", "normal"]


async def test_a_queued_rule_can_take_a_status_too(caller: Caller) -> None:
    external_id = await caller.paid()
    await caller.queue("status", "technical")
    assert "-999" in (await caller.call("status", externalId=external_id)).json()["data"]["errors"]
    assert await caller.status(external_id) == "Processed"


@pytest.mark.parametrize(
    "rule",
    [
        {"op": "create", "course": "no_such_course"},
        {"op": "cancel", "course": "hang"},
        {"op": "create", "course": "hang", "times": 0},
        {"op": "create", "course": "hang", "time": 1},
    ],
)
async def test_a_rule_that_makes_no_sense_is_refused(caller: Caller, rule: dict[str, object]) -> None:
    assert (await caller.client.post("/_rules", json=rule)).status_code == 422


async def test_a_reset_forgets_rules_payments_and_calls(caller: Caller) -> None:
    await caller.create()
    await caller.queue("create", "http_500")
    await caller.client.post("/_reset")
    assert await caller.ledger() == []
    assert (await caller.client.get("/_payments")).json() == []
    assert (await caller.create()).status_code == 200


async def test_the_ledger_can_be_asked_for_one_thing(caller: Caller) -> None:
    external_id = await caller.paid(message="one")
    await caller.create(message="two", phone="77015550000")
    await caller.refund(external_id, "999")
    assert len(await caller.ledger(external_id=external_id)) == 2
    assert len(await caller.ledger(op="refund", applied="false")) == 1
    assert [entry["message"] for entry in await caller.ledger(phone="77015550000")] == ["two"]
    assert [entry["phone"] for entry in await caller.ledger(message="one")] == ["77010009011"]
    assert len(await caller.ledger(bin=SELLER)) == 3
    assert await caller.ledger(bin="860214400107") == []
    assert [entry["sequence"] for entry in await caller.ledger(limit="2")] == [2, 3]


async def test_a_filter_nobody_knows_is_an_error_and_not_everything(caller: Caller) -> None:
    assert (await caller.client.get("/_ledger", params={"externalId": "1"})).status_code == 422


async def test_a_person_can_pay_and_decline(caller: Caller) -> None:
    paid, declined = [str((await caller.create(phone="77010009017")).json()["data"]["externalId"]) for _ in range(2)]
    assert (await caller.client.post(f"/_payments/{paid}/pay")).json()["status"] == "Processed"
    assert (await caller.client.post(f"/_payments/{declined}/decline")).json()["status"] == "Error"
    assert (await caller.client.post(f"/_payments/{paid}/decline")).status_code == 409
    assert await caller.status(paid) == "Processed"


async def test_a_pending_payment_tells_how_it_will_end(caller: Caller) -> None:
    await caller.create()
    await caller.create(phone="77010009017")
    waiting, ordinary = (await caller.client.get("/_payments")).json()
    assert waiting["next"] is None
    assert ordinary["next"]["status"] == "Processed"
    assert 0 < ordinary["next"]["in_s"] <= 6


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1.evil.example"},
        {"host": "evil.example"},
        {"host": "localhost.evil.example:8016"},
        {"host": ""},
    ],
)
@pytest.mark.parametrize("call", ["POST /_reset", "POST /_rules", "POST /_payments/1/pay", "GET /_ledger", "GET /"])
async def test_pages_of_other_machines_may_not_touch_it(caller: Caller, call: str, headers: dict[str, str]) -> None:
    method, path = call.split()
    assert (await caller.client.request(method, path, headers=headers)).status_code == 403


@pytest.mark.parametrize("name", ["127.0.0.1:8016", "localhost:8016", "[::1]:8016"])
async def test_pages_of_this_machine_may(caller: Caller, name: str) -> None:
    headers = {"host": name, "origin": f"http://{name}"}
    assert (await caller.client.post("/_reset", headers=headers)).status_code == 200


async def test_the_page_takes_nothing_from_outside_and_writes_text_only(caller: Caller) -> None:
    answer = await caller.client.get("/")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|https?://", answer.text)


async def test_all_courses_are_listed_with_their_meaning(caller: Caller) -> None:
    courses = (await caller.client.get("/_courses")).json()
    assert [course["course"] for course in courses] == list(rules.BY_NAME)
    assert all(course["meaning"] for course in courses)


async def test_it_says_that_it_lives_and_that_it_is_a_stand_in(caller: Caller) -> None:
    assert (await caller.client.get("/health")).json() == {"status": "ok"}
    assert (await caller.client.get("/_about")).json()["stand_in"] is True
