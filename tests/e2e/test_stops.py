"""Clients that hang up, services that are stopped or killed, in the middle of a call that moves money."""

import asyncio
import contextlib
import json
import signal
from typing import Any

import httpx
import pytest

from tests.support.processes import Process, is_free
from tests.support.rig import PATIENT, PAYS_AT_ONCE, PHONE, Rig, tenge
from tests.support.waiting import until

pytestmark = pytest.mark.xdist_group("e2e")

LATE = "77015219024"
"""Applied at once, answered later than a prompt service waits and sooner than a patient one does."""
LATE_REFUND = "50.24"
NEVER = "77015219023"
NEVER_REFUND = "50.23"
KINDS = pytest.mark.parametrize("kind", ["create", pytest.param("refund", marks=pytest.mark.thorough)])


async def begin(rig: Rig, kind: str, service: Process, phone: str, refund: str) -> "Begun":
    """Ask a service for something slow; it is under way in the stand-in when this returns."""
    word, paid = rig.word(), await rig.paid(amount=100)
    client = rig.client(service)
    if kind == "refund":
        asked = rig.refund(paid["external_id"], by=client, amount=refund, key=f"{word}-key".replace(" ", "-"))
    else:
        asked = rig.create(by=client, message=word, order_id=word, key=f"{word}-key".replace(" ", "-"), phone=phone)
    begun = Begun(rig, kind, word, paid, asyncio.create_task(asked))
    await until(begun.calls, "the call reaches the stand-in")
    return begun


class Begun:
    """Something slow that is under way."""

    def __init__(
        self, rig: Rig, kind: str, word: str, paid: dict[str, Any], task: "asyncio.Task[httpx.Response] | None" = None
    ) -> None:
        self.rig, self.kind, self.word, self.paid, self.task = rig, kind, word, paid, task

    async def calls(self) -> list[dict[str, Any]]:
        """The calls that were applied."""
        if self.kind == "refund":
            return await self.rig.ledger(op="refund", external_id=self.paid["external_id"])
        return await self.rig.applied(self.word)

    async def kept(self) -> dict[str, Any]:
        """The payment, or the refund, as it is kept."""
        if self.kind == "create":
            return await self.rig.payment_of_order(self.word) or {}
        refunds: list[dict[str, Any]] = (await self.rig.payment(self.paid["id"]))["refunds"]
        return refunds[0] if refunds else {}

    async def settled(self) -> dict[str, Any]:
        """Wait until its state is no more sending."""

        async def done() -> dict[str, Any] | None:
            kept = await self.kept()
            return kept if kept.get("state", "sending") != "sending" else None

        return await until(done, "the row is settled")


GOOD = {"create": "pending", "refund": "succeeded"}


@KINDS
async def test_stopped_service_answers_what_is_under_way_takes_nothing_new_and_ends_well(rig: Rig, kind: str) -> None:
    service = await rig.serve(**PATIENT)
    idle = rig.client(service)
    assert (await idle.get("/health")).status_code == 200
    begun = await begin(rig, kind, service, LATE, LATE_REFUND)
    assert begun.task
    assert not begun.task.done()
    service.signal(signal.SIGTERM)
    await refuses_new_requests(rig, service, idle)
    answer = await begun.task
    assert (answer.status_code, answer.json()["success"]) == (200, True)
    assert answer.headers["Connection"] == "close"
    assert await service.ended() == 0
    kept = await begun.kept()
    assert kept["state"] in {GOOD[kind], "paid"}
    assert len(await begun.calls()) == 1


async def refuses_new_requests(rig: Rig, service: Process, idle: httpx.AsyncClient) -> None:
    """Over a connection of before and over new ones: nothing that is asked for now is done."""
    word = rig.word()

    async def refuses() -> bool:
        """A new connection is refused, or answered with 503."""
        async with httpx.AsyncClient(base_url=service.url, trust_env=False) as new:
            with contextlib.suppress(httpx.TransportError):
                return (await new.get("/health/ready")).status_code == 503
        return True

    await until(refuses, "new requests are refused")
    for client in (idle, rig.client(service)):
        with contextlib.suppress(httpx.TransportError):
            assert (await rig.create(by=client, message=word)).status_code == 503
    assert not await rig.applied(word)


async def test_request_on_an_idle_connection_of_a_stopping_service_is_answered(rig: Rig) -> None:
    """A balancer that sends just when the service stops is told that nothing was sent, and not reset."""
    service = await rig.serve()
    async with httpx.AsyncClient(base_url=service.url, trust_env=False) as client:
        assert (await client.get("/health")).headers.get("Connection") != "close"
        service.signal(signal.SIGTERM)
        await until(lambda: _is_free(service.port), "new connections are refused")
        answer = await rig.create(by=client, message=rig.word())
        assert (answer.status_code, answer.json()["code"]) == (503, "draining")
        assert answer.headers["Connection"] == "close"
    assert await service.ended() == 0


async def _is_free(port: int) -> bool:
    return is_free(port)


async def hang_up_after_sending(service: Process, path: str, body: dict[str, Any], key: str) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", service.port)
    content = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: service\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    writer.write(head.encode() + content)
    await writer.drain()
    writer.close()
    await writer.wait_closed()


@KINDS
@pytest.mark.parametrize(
    "stopped",
    [
        pytest.param(False, id="and the service goes on", marks=pytest.mark.thorough),
        pytest.param(True, id="and the service is stopped"),
    ],
)
async def test_client_that_hangs_up_stops_nothing(rig: Rig, kind: str, stopped: bool) -> None:
    service = await rig.serve(**PATIENT)
    begun = Begun(rig, kind, rig.word(), await rig.paid())
    if kind == "refund":
        body = {"shop_id": 121038, "external_id": begun.paid["external_id"], "amount": LATE_REFUND}
    else:
        body = {"shop_id": 121038, "amount": 100, "message": begun.word, "order_id": begun.word, "phone": LATE}
    await hang_up_after_sending(service, f"/payments/kaspi/{kind}", body, rig.key)
    await until(begun.calls, "the call reaches the stand-in")
    if stopped:
        assert await service.stop() == 0
    assert (await begun.settled())["state"] in {GOOD[kind], "paid"}
    assert len(await begun.calls()) == 1


@KINDS
async def test_killed_service_leaves_unknown_and_never_failed(rig: Rig, kind: str) -> None:
    service = await rig.serve(**PATIENT)
    begun = await begin(rig, kind, service, NEVER, NEVER_REFUND)
    service.signal(signal.SIGKILL)
    assert begun.task
    with pytest.raises(httpx.TransportError):
        await begun.task
    assert (await begun.settled())["state"] == "unknown"

    payment = await rig.payment(begun.paid["id"] if kind == "refund" else (await begun.kept())["id"])
    assert [line["state"] for line in payment["history"] if line["actor"] == "worker" and line["state"] != "paid"] == [
        "unknown"
    ]
    key = f"{begun.word}-key".replace(" ", "-")
    if kind == "refund":
        again = await rig.refund(begun.paid["external_id"], amount=NEVER_REFUND, key=key)
        more = await rig.refund(begun.paid["external_id"], amount=60)
        assert (more.status_code, tenge(more.json()["remaining_amount"])) == (422, tenge("49.77"))
    else:
        again = await rig.create(message=begun.word, order_id=begun.word, key=key, phone=NEVER)
    assert (again.status_code, again.json()["success"]) == (202, False)
    assert len(await begun.calls()) == 1


async def test_killed_worker_is_replaced_by_the_next_one(rig: Rig) -> None:
    await rig.workers[0].kill()
    made = (await rig.create(phone=PAYS_AT_ONCE, message=rig.word())).json()
    rig.workers = [rig.start_worker()]
    await rig.in_state(made["id"], "paid")


async def test_worker_that_is_told_to_stop_ends_well(rig: Rig) -> None:
    second = rig.start_worker()

    async def started() -> bool:
        return "worker started" in second.written

    await until(started, "the worker starts")
    made = (await rig.create(phone=PHONE, message=rig.word())).json()
    assert await second.stop() == 0
    await rig.in_state(made["id"], "paid")


async def test_stopped_service_frees_its_port(rig: Rig) -> None:
    service = await rig.serve()
    assert await service.stop(signal.SIGINT) == 0
    assert is_free(service.port)
