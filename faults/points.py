"""Crash points: named places where the process kills itself with SIGKILL, or stops itself with SIGSTOP.

They are installed from outside, by wrapping.

A place is named ``verb/place``. Money verbs (create, link, refund) live in a service; worker, plan (of a reading that
moved nothing), sweep and refund-sweep in a worker. Before it dies the process leaves its point and pid in a file, so
that the rig can tell that it died there and nowhere else.
"""

import asyncio
import functools
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Final

import asyncpg.transaction
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.types import Message, Receive, Scope, Send

from payment_service.api.middleware import RequestMiddleware
from payment_service.payments import polling
from payment_service.payments import queries as payment_queries
from payment_service.payments.outcomes import PaymentOutcome
from payment_service.payments.polling import Polling
from payment_service.payments.service import PaymentRequest, Payments
from payment_service.postgres.database import Database
from payment_service.postgres.statement_pool import StatementPool
from payment_service.providers.kaspi import client as kaspi
from payment_service.refunds import queries as refund_queries
from payment_service.refunds.outcomes import RefundOutcome
from payment_service.refunds.service import Refunds
from payment_service.refunds.settling import RefundSettling

OF_MONEY: Final = (
    "before-tx1",
    "tx1-commit-sent",
    "after-tx1",
    "connected",
    "request-left",
    "reply-begun",
    "reply-read",
    "before-tx2",
    "tx2-commit-sent",
    "after-tx2",
    "before-answer",
)
"""In the order in which a money call comes by them."""
OF_WORKER: Final = (
    "worker/before-claim",
    "worker/claim-commit-sent",
    "worker/claimed",
    "worker/reading-begun",
    "worker/status-read",
    "worker/reading-commit-sent",
    "worker/after-reading",
    "plan/before-plan",
    "plan/plan-commit-sent",
    "plan/after-plan",
    "sweep/found",
    "sweep/settle-commit-sent",
    "sweep/after-settle",
    "refund-sweep/found",
    "refund-sweep/settle-commit-sent",
)
POINTS: Final = tuple(f"{verb}/{place}" for verb in ("create", "link", "refund") for place in OF_MONEY) + OF_WORKER

_FLUSHED_S: Final = 0.05
"""After so long what was written to a socket has left: the loop hands it to the kernel in its next turn."""
_verb: ContextVar[str] = ContextVar("verb", default="")
_transaction: ContextVar[str] = ContextVar("transaction", default="")

Method = Callable[..., Awaitable[Any]]


class _Trap:
    """The one armed point of this process."""

    def __init__(self, point: str, nth: int, mark: Path, sign: signal.Signals) -> None:
        self.point, self._left, self._mark, self._sign = point, nth, mark, sign

    def reach(self, place: str, verb: str | None = None) -> None:
        """Die (or stop), if this is the point and its time has come."""
        if f"{_verb.get() if verb is None else verb}/{place}" != self.point:
            return
        self._left -= 1
        if self._left:
            return
        with self._mark.open("a") as file:
            file.write(f"{self.point} {os.getpid()}\n")
        os.kill(os.getpid(), self._sign)


def install(point: str, nth: int, mark: Path, sign: signal.Signals = signal.SIGKILL) -> None:
    """Arm one point of this process: it gets the signal when it comes there for the nth time."""
    if point not in POINTS:
        raise ValueError(f"there is no crash point {point!r}")
    trap = _Trap(point, nth, mark, sign)
    _around_transactions(trap)
    _around_money(trap)
    _around_the_call(trap)
    _around_the_answer(trap)
    _around_the_worker(trap)


def _wrap(owner: Any, name: str, around: Callable[[Method], Method]) -> None:
    original = getattr(owner, name)
    setattr(owner, name, functools.wraps(original)(around(original)))


def _around_transactions(trap: _Trap) -> None:
    begin = Database.transaction

    @asynccontextmanager
    async def transaction(self: Database) -> AsyncIterator[AsyncSession]:
        async with begin(self) as session:
            yield session
            await session.flush()
            trap.reach(f"in-{_transaction.get()}")

    def commit_sent(original: Method) -> Method:
        async def commit(self: asyncpg.transaction.Transaction) -> None:
            if f"{_verb.get()}/{_transaction.get()}-commit-sent" != trap.point:
                await original(self)
                return
            sending = asyncio.ensure_future(original(self))
            await asyncio.sleep(_FLUSHED_S)
            trap.reach(f"{_transaction.get()}-commit-sent")
            await sending

        return commit

    def statement_sent(original: Method) -> Method:
        async def fetch(self: StatementPool, query: str, *args: Any, **how: Any) -> Any:
            place = f"{_transaction.get()}-commit-sent"
            writes = "_intend(" in query or "INTO payment_log" in query or query in {polling._CLAIM, polling._PLAN}
            if not writes or f"{_verb.get()}/{place}" != trap.point:
                return await original(self, query, *args, **how)
            sending = asyncio.ensure_future(original(self, query, *args, **how))
            await asyncio.sleep(_FLUSHED_S)
            trap.reach(place)
            return await sending

        return fetch

    _wrap(StatementPool, "fetch", statement_sent)
    Database.transaction = transaction  # type: ignore[method-assign]
    _wrap(asyncpg.transaction.Transaction, "commit", commit_sent)


def _around_money(trap: _Trap) -> None:
    def intent(original: Method) -> Method:
        async def write_intent(self: Any, request: Any, *rest: Any, **more: Any) -> Any:
            link = isinstance(request, PaymentRequest) and request.phone is None
            _verb.set("link" if link else "create" if isinstance(request, PaymentRequest) else "refund")
            trap.reach("before-tx1")
            written = await original(self, request, *rest, **more)
            _transaction.set("")
            trap.reach("after-tx1")
            return written

        return write_intent

    def inside(name: str) -> Callable[[Method], Method]:
        def around(original: Method) -> Method:
            async def step(self: Any, *rest: Any, **more: Any) -> Any:
                _transaction.set(name)
                return await original(self, *rest, **more)

            return step

        return around

    def outcome(original: Method) -> Method:
        async def write_outcome(self: Any, *rest: Any, **more: Any) -> Any:
            trap.reach("before-tx2")
            written = await original(self, *rest, **more)
            trap.reach("after-tx2")
            return written

        return write_outcome

    for service in (Payments, Refunds):
        _wrap(service, "_write_intent", intent)
        _wrap(service, "_write_outcome", outcome)
    _wrap(Payments, "_intend", inside("tx1"))
    _wrap(Refunds, "_try_intent", inside("tx1"))
    for done in (PaymentOutcome, RefundOutcome):
        _wrap(done, "write", inside("tx2"))


def _around_the_call(trap: _Trap) -> None:
    places = {
        "connection.connect_tcp.complete": "connected",
        "http11.send_request_body.complete": "request-left",
        "http11.receive_response_headers.complete": "reply-begun",
    }

    def event(original: Method) -> Method:
        async def told(self: Any, name: str, info: dict[str, Any]) -> None:
            await original(self, name, info)
            if (place := places.get(name)) is not None:
                if f"{_verb.get()}/{place}" == trap.point and place == "request-left":
                    await asyncio.sleep(_FLUSHED_S)
                trap.reach(place)

        return told

    def fetch(original: Method) -> Method:
        async def read(self: Any, *rest: Any) -> Any:
            reply = await original(self, *rest)
            trap.reach("reply-read")
            return reply

        return read

    def status(original: Method) -> Method:
        async def read_status(self: Any, external_id: str) -> Any:
            reading = await original(self, external_id)
            trap.reach("status-read")
            return reading

        return read_status

    _wrap(kaspi._SendTracker, "__call__", event)
    _wrap(kaspi.KaspiClient, "_fetch", fetch)
    _wrap(kaspi.KaspiClient, "read_status", status)


def _around_the_answer(trap: _Trap) -> None:
    verbs = {"create": "create", "create-link": "link", "refund": "refund"}

    def serve(original: Method) -> Method:
        async def call(self: RequestMiddleware, scope: Scope, receive: Receive, send: Send) -> None:
            async def answer(message: Message) -> None:
                if message["type"] == "http.response.start":
                    trap.reach("before-answer", verbs.get(scope["path"].rpartition("/")[2], ""))
                await send(message)

            await original(self, scope, receive, answer)

        return call

    _wrap(RequestMiddleware, "__call__", serve)


def _around_the_worker(trap: _Trap) -> None:
    def claim(original: Method) -> Method:
        async def claimed(self: Polling, *rest: Any) -> Any:
            _verb.set("worker")
            _transaction.set("claim")
            trap.reach("before-claim")
            turns = await original(self, *rest)
            if turns:
                trap.reach("claimed")
            return turns

        return claimed

    def perform(original: Method) -> Method:
        async def turn(self: Polling, *rest: Any) -> None:
            _verb.set("worker")
            _transaction.set("reading")
            trap.reach("reading-begun")
            await original(self, *rest)
            trap.reach("after-reading")

        return turn

    def plan(original: Method) -> Method:
        async def planned(self: Polling, *rest: Any) -> None:
            _verb.set("plan")
            _transaction.set("plan")
            trap.reach("before-plan")
            await original(self, *rest)
            trap.reach("after-plan")

        return planned

    def settle(verb: str) -> Callable[[Method], Method]:
        def around(original: Method) -> Method:
            async def mark_lost_unknown(self: Any) -> int:
                _verb.set(verb)
                lost: int = await original(self)
                if lost:
                    trap.reach("after-settle")
                return lost

            return mark_lost_unknown

        return around

    def found(original: Method) -> Method:
        async def stuck(*rest: Any, **more: Any) -> Any:
            rows = await original(*rest, **more)
            if rows:
                trap.reach("found")
                _transaction.set("settle")
            return rows

        return stuck

    _wrap(Polling, "claim", claim)
    _wrap(Polling, "perform", perform)
    _wrap(Polling, "_write_plans", plan)
    _wrap(Polling, "mark_lost_unknown", settle("sweep"))
    _wrap(RefundSettling, "mark_lost_unknown", settle("refund-sweep"))
    _wrap(payment_queries, "stuck_in_sending", found)
    _wrap(refund_queries, "stuck_in_sending", found)
