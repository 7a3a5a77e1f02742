"""What clients ask for again when no good answer came, and calls that are held at the wire while they wait.

Whoever asks again means the same: with the key of before, without any key, or for the same order with a new key.
"""

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Final

from faults.clients import Asked, Clients, Op, Told
from faults.proxy import Call
from faults.rig import Rig
from tests.support.processes import Process

WAITS: Final = "77015219017"
"""Nobody pays this phone's payments: they stay open."""
KINDS: Final = ("keyless", "keyed", "order", "keyless order")
OF_REFUNDS: Final = ("keyless", "keyed")
_COMES_WITHIN_S: Final = 20


@dataclass(slots=True)
class Held:
    """Holds a call at the wire, before the stand-in has it or before its reply goes back."""

    applied: bool
    come: asyncio.Event = field(default_factory=asyncio.Event)
    go: asyncio.Event = field(default_factory=asyncio.Event)
    since: float = 0
    """When it came, in Unix seconds."""

    async def __call__(self, call: Call) -> None:
        reply = await call.apply() if self.applied else None
        self.since = time.time()
        self.come.set()
        ends = {asyncio.create_task(call.gone()), asyncio.create_task(self.go.wait())}
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in ends:
                end.cancel()
        if self.go.is_set():
            await call.say((reply or await call.apply()).whole)


@dataclass(frozen=True, slots=True)
class Wish:
    """One thing that a client wants, and how it says that it means the same when it asks again."""

    kind: str
    asked: Asked

    @property
    def verb(self) -> str:
        """For the report."""
        return f"{self.asked.op}, {self.kind}"

    def again(self) -> Asked:
        """The same wish, asked for once more."""
        return replace(self.asked, key=_some_key()) if self.kind == "order" else self.asked

    def another(self) -> Asked:
        """Another wish for the same order."""
        return replace(
            self.asked, key=_some_key(), amount=(self.asked.amount or 0) + 100, word=f"{self.asked.word}, more"
        )

    def plan(self, rig: Rig, course: Held) -> None:
        """Let the one call for this wish meet a course."""
        rig.proxy.plan(self.asked.op, self.asked.external_id or self.asked.word or "", course)


def _some_key() -> str:
    return f"key-{uuid.uuid4().hex}"


async def wishes(clients: Clients, each: int = 1) -> list[Wish]:
    """So many of each kind, for payments by phone and by link, and for refunds."""
    found = [
        Wish(kind, _payment(clients, op, kind))
        for op in ("create", "create-link")
        for kind in KINDS
        for _ in range(each)
    ]
    return found + [Wish(kind, await _refund(clients, kind)) for kind in OF_REFUNDS for _ in range(each)]


def _payment(clients: Clients, op: Op, kind: str) -> Asked:
    asked = clients.payment(op, order_id=f"order-{uuid.uuid4().hex}" if "order" in kind else None)
    asked = replace(asked, phone=WAITS) if op == "create" else asked
    return replace(asked, key=None) if kind.startswith("keyless") else asked


async def _refund(clients: Clients, kind: str) -> Asked:
    refund = clients.refund_of(await clients.paid(), 5_000)
    return replace(refund, key=None) if kind == "keyless" else refund


async def _until_sent(clients: Clients, asked: Asked, service: Process, hold: Held) -> Told:
    """Ask, and again while nothing was sent: so many at once may be too much for this machine."""
    told = await clients.ask(asked, service)
    while told.status == 503 and not hold.come.is_set():
        told = await clients.ask(asked, service)
    return told


@contextlib.asynccontextmanager
async def in_mid_call(
    clients: Clients, asked_for: list[Wish], service: Process, *, applied: bool
) -> AsyncIterator[tuple[list[Held], list[asyncio.Task[Told]]]]:
    """All of them asked for at once, at one service, and every call held at the wire."""
    held = [Held(applied) for _ in asked_for]
    for wish, hold in zip(asked_for, held, strict=True):
        wish.plan(clients.rig, hold)
    asking = [
        asyncio.create_task(_until_sent(clients, wish.asked, service, hold))
        for wish, hold in zip(asked_for, held, strict=True)
    ]
    try:
        async with asyncio.timeout(_COMES_WITHIN_S):
            await asyncio.gather(*(hold.come.wait() for hold in held))
        yield held, asking
    finally:
        for hold in held:
            hold.go.set()
        await asyncio.gather(*asking, return_exceptions=True)
