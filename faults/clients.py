"""The callers: they ask the services, as shops do, and write down what each was told, or that no answer came."""

import asyncio
import random
import time
import uuid
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

import httpx

from faults.rig import Rig
from tests.support.shops import SHOPS

Op: TypeAlias = Literal["create", "create-link", "refund", "status"]

PHONES = tuple(f"7701521{number:04d}" for number in (1545, 1546, 1547, 1548))
PAYS_AT_ONCE = "77015219011"
PAYS_LATE = "77015219012"
_RETRY = frozenset({409, 503})


class Server(Protocol):
    """What can be asked: a service, or a balancer before several."""

    name: str
    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One thing that a caller wants, however often it has to ask for it. ``amount`` is in tiyn."""

    op: Op
    shop_id: int = 121038
    amount: int | None = None
    phone: str | None = field(default=None, repr=False)
    word: str | None = None
    """The message of a payment: no other payment of the rig has it."""
    order_id: str | None = None
    external_id: str | None = None
    key: str | None = None
    """The Idempotency-Key; None for a client that sends none."""
    metadata: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    waits_for: str | None = None
    """Of a status: our id of a payment, whose change of state the caller waits for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What came of asking once."""

    asked: Asked
    by: str
    """The process that was asked."""
    status: int | None
    """None: no answer came."""
    body: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0
    replayed: bool = False
    retry_after: bool = False
    at: float = 0
    """When the answer had come, in Unix seconds."""
    error: str = ""
    """Why no answer came."""

    @property
    def unanswered(self) -> bool:
        """Nobody answered, or a balancer in the place of a service: what came of it is not known to the caller."""
        return self.status is None or (self.status in {502, 504} and not self.body)


@dataclass
class Clients:
    """Asks the services of one rig."""

    rig: Rig
    random: random.Random
    told: list[Told] = field(default_factory=list)
    patience_s: float = 20
    through: Server | None = None
    """A balancer to ask instead of the services themselves."""
    _parts: set[tuple[str, int]] = field(default_factory=set)

    # --- what to ask for

    def payment(self, op: Op = "create", **more: Any) -> Asked:
        """A payment that nobody asked for yet; in whole tenge, so that it takes no course by itself."""
        asked: dict[str, Any] = {
            "op": op,
            "shop_id": self.random.choice(list(SHOPS)),
            "amount": self.random.randrange(100, 5_000) * 100,
            "phone": self.random.choice(PHONES) if op == "create" else None,
            "word": f"payment {uuid.uuid4().hex[:12]}",
            "key": f"key-{uuid.uuid4().hex}",
        }
        return Asked(**{**asked, **more})

    def refund_of(self, paid: Told, amount: int | None, **more: Any) -> Asked:
        """A refund of a payment that somebody was told of. ``amount`` in tiyn; None for all that is left."""
        asked: dict[str, Any] = {
            "op": "refund",
            "shop_id": paid.asked.shop_id,
            "amount": amount,
            "external_id": paid.body["external_id"],
            "key": f"key-{uuid.uuid4().hex}",
        }
        return Asked(**{**asked, **more})

    def part_of(self, paid: Told, most: int) -> Asked | None:
        """A refund of up to ``most`` whole tenge, by a sum that no refund of this payment had; none when all had.

        Of two equal refunds under two keys the second is refused until the end of the first is known.
        """
        of_payment = paid.body["external_id"]
        left = [amount for amount in range(100, 100 * most + 1, 100) if (of_payment, amount) not in self._parts]
        if not left:
            return None
        amount = self.random.choice(left)
        self._parts.add((of_payment, amount))
        return self.refund_of(paid, amount)

    # --- asking

    async def ask(self, asked: Asked, by: Server | None = None) -> Told:
        """Ask once."""
        by = by or self.through or self.random.choice(self.rig.services)
        started = time.perf_counter()
        headers = {"Authorization": f"Bearer {self.rig.key}"}
        if asked.key:
            headers["Idempotency-Key"] = asked.key
        try:
            async with asyncio.timeout(self.patience_s):
                if asked.op == "status":
                    what = f"{asked.waits_for}?wait=2" if asked.waits_for else f"kaspi/status/{asked.external_id}"
                    answer = await self.rig.http.get(f"{by.url}/payments/{what}", headers=headers)
                else:
                    url = f"{by.url}/payments/kaspi/{asked.op}"
                    answer = await self.rig.http.post(url, json=_body(asked), headers=headers)
            told = Told(
                asked=asked,
                by=by.name,
                status=answer.status_code,
                body=answer.json() if "json" in answer.headers.get("content-type", "") else {},
                seconds=time.perf_counter() - started,
                replayed="idempotency-replayed" in answer.headers,
                retry_after="retry-after" in answer.headers,
                at=time.time(),
            )
        except (httpx.TransportError, TimeoutError) as error:
            seconds = time.perf_counter() - started
            told = Told(asked=asked, by=by.name, status=None, seconds=seconds, at=time.time(), error=repr(error))
        self.told.append(told)
        return told

    async def insist(self, asked: Asked, first: Server | None = None, within_s: float = 25) -> Told:
        """Ask as a good client does: with no answer, a 409 or a 503 it asks again, with the same key, elsewhere."""
        give_up_at = time.monotonic() + within_s
        told = await self.ask(asked, first)
        while told.unanswered or (told.status in _RETRY and told.retry_after):
            if time.monotonic() > give_up_at:
                return told
            await asyncio.sleep(0.05 + 0.1 * self.random.random())
            told = await self.ask(asked)
        return told

    async def paid(self, **more: Any) -> Told:
        """A new payment that its customer has paid, and that the service knows to be paid."""
        made = await self.insist(self.payment(**{"phone": PAYS_AT_ONCE, **more}))
        assert made.status == 200, made
        # The first reading may fall to a connection that died with the process before.
        give_up_at = time.monotonic() + 10
        seen = await self.ask(Asked(op="status", external_id=made.body["external_id"]))
        while seen.body.get("state") != "paid":
            assert time.monotonic() < give_up_at, seen
            seen = await self.ask(Asked(op="status", external_id=made.body["external_id"]))
        return made

    def taken(self) -> list[Told]:
        """What was told since this was last asked."""
        told, self.told = self.told, []
        return told


def _body(asked: Asked) -> dict[str, Any]:
    body: dict[str, Any] = {
        "shop_id": asked.shop_id,
        "amount": None if asked.amount is None else f"{asked.amount // 100}.{asked.amount % 100:02d}",
        "phone": asked.phone,
        "message": asked.word,
        "order_id": asked.order_id,
        "external_id": asked.external_id,
        "metadata": dict(asked.metadata) or None,
        "full": True if asked.op == "refund" and asked.amount is None else None,
    }
    return {name: value for name, value in body.items() if value is not None}
