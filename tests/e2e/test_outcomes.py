"""Every row of the outcome table (docs/kaspi-api.md section 6), played by the stand-in: what the client is told, what
is kept, and what truly happened.

Told failed means not applied; told ok means applied once, with that id; all else is unknown. Each request is made
twice with its key, through two services: never two calls.
"""

import asyncio
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import httpx
import pytest

from kaspi_sandbox.rules import COURSES, Course
from tests.support.rig import Rig, tenge
from tests.support.waiting import until

pytestmark = pytest.mark.xdist_group("e2e")

PROVIDER_REFUSES = {course.name for course in COURSES if re.fullmatch(r"code_\d+", course.name)}
PROXY_REFUSES = {"http_401", "http_404", "http_429"}
CUSTOMERS = {"normal", "pays_at_once", "pays_late", "declines", "expires", "cancelled", "waits", "error_then_paid"}
TAKEN_ON = CUSTOMERS | {"unknown_status", "full_refund_only"}
OPERATIONS = ("create", "create-link", "refund")
LINKED = TAKEN_ON | {"duplicate_external_id", "drop", "technical", "http_401", min(PROVIDER_REFUSES)}
"""What `make test` plays by link too: what is taken on, and one of each other kind. A link goes an invoice's way."""
TOLD = {"ok": 200, "unknown": 202, "rejected": 422, "refused": 502}
GOOD = {"create": "pending", "create-link": "pending", "refund": "succeeded"}


def verdict(operation: str, course: str) -> str:
    """What the table says of a course."""
    if course in TAKEN_ON or (operation, course) == ("refund", "empty_applied"):
        return "ok"
    if course in PROVIDER_REFUSES:
        return "rejected"
    return "refused" if course in PROXY_REFUSES else "unknown"


@dataclass
class Played:
    """One course of one operation, as everybody tells it."""

    first: httpx.Response
    again: httpx.Response
    kept: dict[str, Any]
    """The payment, or the refund."""
    history: list[dict[str, Any]]
    calls: list[dict[str, Any]]


class Stage:
    """Plays courses at once, except those that need another payment before them."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.played: dict[tuple[str, str], Played] = {}

    def clients(self) -> list[httpx.AsyncClient]:
        """Both services, another one first each time."""
        self.rig.clients.reverse()
        return list(self.rig.clients)

    async def play(self, rows: list[tuple[str, Course]]) -> None:
        crossed = [row for row in rows if row[1].name == "duplicate_external_id"]
        for operation, course in crossed:
            # The payment before it must be one that the service knows, or nobody could tell that its id is another's.
            await self.rig.paid()
            await self._play(operation, course)
        limit = asyncio.Semaphore(20)  # of two cores, so that no request waits for the database longer than it may
        async with asyncio.TaskGroup() as tasks:
            for operation, course in rows:
                if (operation, course) not in crossed:
                    tasks.create_task(self._play_within(limit, operation, course))

    async def _play_within(self, limit: asyncio.Semaphore, operation: str, course: Course) -> None:
        async with limit:
            await self._play(operation, course)

    async def _play(self, operation: str, course: Course) -> None:
        play = self._refund if operation == "refund" else self._create
        self.played[operation, course.name] = await play(operation, course)

    async def _create(self, operation: str, course: Course) -> Played:
        rig, word = self.rig, self.rig.word()
        body: dict[str, Any] = {"message": word, "link": operation == "create-link"}
        if operation == "create-link":
            body["amount"] = amount_of(course)
        else:
            body["phone"] = f"7701521{course.phone_ending or '1545'}"
        key = f"key-{word}".replace(" ", "-")
        first, again = [await rig.create(by=client, key=key, **body) for client in self.clients()]
        payment = await rig.payment(first.json()["id"])
        calls = [each for each in await rig.ledger(op=operation) if (each["message"] or "").startswith(f"{word} #")]
        return Played(first, again, payment, payment["history"], calls)

    async def _refund(self, operation: str, course: Course) -> Played:
        rig = self.rig
        paid = await rig.paid(amount=300)
        key, external_id = f"key-{paid['id']}", paid["external_id"]
        amount = amount_of(course)
        first, again = [await rig.refund(external_id, by=client, key=key, amount=amount) for client in self.clients()]
        payment = await rig.payment(paid["id"])
        [refund] = payment["refunds"]
        assert tenge(refund["amount"]) == tenge(amount)
        history = [line for line in payment["history"] if line["refund_id"] == refund["id"]]
        return Played(
            first,
            again,
            refund | {"payment": payment},
            history,
            await rig.ledger(op=operation, external_id=external_id),
        )


def amount_of(course: Course) -> str:
    return f"100.{course.number or 0:02d}"


ROWS = [(operation, course) for operation in OPERATIONS for course in COURSES]
SOME = [row for row in ROWS if row[0] != "create-link" or row[1].name in LINKED]


@pytest.fixture(scope="module")
async def played(rig: Rig, request: pytest.FixtureRequest) -> dict[tuple[str, str], Played]:
    await rig.route_all()
    stage = Stage(rig)
    here = [item for item in request.session.items if item.path == request.path]
    await stage.play(ROWS if any(item.get_closest_marker("thorough") for item in here) else SOME)
    return stage.played


every_row = pytest.mark.parametrize(
    ("operation", "course"),
    [
        pytest.param(operation, course.name, marks=() if (operation, course) in SOME else pytest.mark.thorough)
        for operation, course in ROWS
    ],
)
Table = dict[tuple[str, str], Played]


@every_row
def test_client_is_told_what_the_table_says(played: Table, operation: str, course: str) -> None:
    told = played[operation, course].first
    assert told.status_code == TOLD[verdict(operation, course)], told.text
    match verdict(operation, course):
        case "ok":
            assert told.json()["success"] is True
        case "unknown":
            assert (told.json()["success"], told.json()["state"]) == (False, "unknown")
            assert f"/payments/{told.json()['id']}" in told.json()["detail"]
        case "rejected":
            assert re.sub(r"\D", "", told.json()["provider_code"]) == course.removeprefix("code_")
        case _:
            assert told.json()["code"] == "provider_refused"


@every_row
def test_row_and_audit_entry_keep_what_was_told(played: Table, operation: str, course: str) -> None:
    row, said = played[operation, course], verdict(operation, course)
    state = {"ok": GOOD[operation], "unknown": "unknown"}.get(said, "failed")
    entries = [line for line in row.history if line["operation_type"] == operation]
    # The id that a crossed reply names is another payment's, and has a line of its own. That of a refund names none.
    states = [state, None] if course == "duplicate_external_id" and operation != "refund" else [state]
    assert [(line["state"], line["source"], line["actor"]) for line in entries] == [
        (each, "service", "rig") for each in states
    ]
    assert entries[0]["request_id"] == row.first.headers["X-Request-ID"]
    if said != "ok":
        assert row.kept["state"] == state
        assert row.kept["error_code"]
        assert entries[0]["error_message"]


@every_row
def test_ledger_bears_out_what_the_client_was_told(played: Table, operation: str, course: str) -> None:
    row, said = played[operation, course], verdict(operation, course)
    applied = [call for call in row.calls if call["applied"]]
    assert len(row.calls) == 1
    if said == "ok":
        assert [call["external_id"] for call in applied] == [row.first.json()["external_id"]]
        assert not applied[0]["default_merchant_used"]
    elif said != "unknown":
        assert not applied


@every_row
def test_asking_again_gives_the_same_answer(played: Table, operation: str, course: str) -> None:
    row = played[operation, course]
    assert row.again.status_code == row.first.status_code
    assert row.again.headers["Idempotency-Replayed"] == "true"
    assert row.again.json()["id"] == row.first.json()["id"]


@pytest.mark.parametrize("course", [course.name for course in COURSES])
def test_only_a_refund_that_was_made_counts_as_refunded(played: Table, course: str) -> None:
    row, said = played["refund", course], verdict("refund", course)
    done = tenge(row.kept["amount"])
    assert tenge(row.kept["payment"]["refunded_amount"]) == (done if said == "ok" else Decimal(0))


async def test_amount_of_an_unknown_refund_cannot_be_refunded_again(rig: Rig) -> None:
    paid = await rig.paid(amount=300)
    assert (await rig.refund(paid["external_id"], amount="200.31")).status_code == 202
    more = await rig.refund(paid["external_id"], amount=100)
    assert (more.status_code, more.json()["remaining_amount"]) == (422, 99.69)


@pytest.mark.parametrize(
    ("course", "end"),
    [
        ("normal", "paid"),
        ("pays_at_once", "paid"),
        ("pays_late", "paid"),
        ("declines", "failed"),
        ("expires", "failed"),
        ("cancelled", "cancelled"),
        ("unknown_status", "pending"),
        ("waits", "pending"),
    ],
)
async def test_payment_ends_as_its_customer_decides(rig: Rig, played: Table, course: str, end: str) -> None:
    for operation in ("create", "create-link"):
        await rig.in_state(played[operation, course].kept["id"], end)


async def test_late_success_wins_over_an_error_that_was_believed(rig: Rig, played: Table) -> None:
    payment = played["create", "error_then_paid"].kept
    await rig.in_state(payment["id"], "failed", "paid")

    async def paid() -> bool:
        answer = await rig.api.get(f"/payments/kaspi/status/{payment['external_id']}")
        return bool(answer.json()["state"] == "paid")

    await until(paid, "the provider's truth wins")
    history = (await rig.payment(payment["id"]))["history"]
    assert [line["state"] for line in history] == ["pending", "failed", "paid"]


@pytest.mark.parametrize(
    "course", ["http_500", "html", "technical", "unknown_code", "drop", "http_401", "empty_applied"]
)
async def test_status_that_cannot_be_read_changes_nothing(rig: Rig, course: str) -> None:
    waiting = (await rig.create(phone="77015219017", message=rig.word())).json()
    await rig.queue("status", course, 2)
    answer = await rig.api.get(f"/payments/kaspi/status/{waiting['external_id']}")
    assert (answer.status_code, answer.json()["state"]) == (200, "pending")


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_what_never_left_failed_and_may_be_sent_again_with_its_key(
    rig: Rig, unreachable: httpx.AsyncClient, operation: str
) -> None:
    key, word = f"key-{operation}-{rig.word()}".replace(" ", "-"), rig.word()
    paid = await rig.paid() if operation == "refund" else {}
    if operation == "refund":
        await rig.api.get(f"/payments/kaspi/status/{paid['external_id']}")

    async def ask(by: httpx.AsyncClient) -> httpx.Response:
        if operation == "refund":
            return await rig.refund(paid["external_id"], by=by, key=key, amount=50)
        return await rig.create(by=by, key=key, link=operation == "create-link", message=word)

    failed = await ask(unreachable)
    assert (failed.status_code, failed.json()["code"]) == (503, "not_sent")
    assert int(failed.headers["Retry-After"]) > 0
    sent = await ask(rig.api)
    assert sent.status_code == 200, sent.text
    assert "Idempotency-Replayed" not in sent.headers
    payment = await rig.payment(paid.get("id") or failed.json()["id"])
    states = [each["state"] for each in payment["refunds"]] if operation == "refund" else [payment["state"]]
    assert states[0] == "failed"
    calls = await rig.ledger(op="refund", external_id=paid["external_id"]) if paid else await rig.applied(word)
    assert len(calls) == 1


@pytest.fixture(scope="module")
async def unreachable(rig: Rig) -> httpx.AsyncClient:
    """A service whose proxy is not there."""
    return rig.client(await rig.serve(PRODUCTION_API_URL="http://127.0.0.1:1"))


async def test_wrong_access_token_is_told_and_nothing_is_applied(rig: Rig) -> None:
    rig.secrets.add("not-the-access-token")
    stranger = rig.client(await rig.serve(KASPI_ACCESS_TOKEN="not-the-access-token"))
    word = rig.word()
    answer = await rig.create(by=stranger, message=word)
    assert (answer.status_code, answer.json()["code"]) == (502, "provider_refused")
    assert (await rig.payment(answer.json()["id"]))["failure"] == "refused"
    assert not await rig.applied(word)
