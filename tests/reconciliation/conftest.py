"""Payments of every kind on the wire, and the walk over them."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import httpx
import pytest
import respx

from payment_service.payments.models import Payment
from payment_service.reconciliation.findings import Finding
from payment_service.reconciliation.service import Period, Reconciliation, Walk
from payment_service.services import Services
from payment_service.settings import Settings
from tests.support.asking import FIRST_ID, ask
from tests.support.replies import accepted, status_reply

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
FAR_AHEAD = datetime.now(UTC) + timedelta(days=1)
ALL = Period(LONG_AGO, FAR_AHEAD)

Reply = httpx.Response | Exception


@dataclass
class Kaspi:
    """The provider: takes on every payment, and says of each what it was told to say, ``Wait`` if nothing."""

    words: dict[str, list[str | Reply]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    _numbers: "itertools.count[int]" = field(default_factory=lambda: itertools.count(FIRST_ID))

    def says(self, payment: Payment, *replies: str | Reply) -> None:
        """Of this payment: these words in turn, the last one for ever."""
        self.words[str(payment.external_id)] = list(replies)

    def create(self, _request: httpx.Request) -> httpx.Response:
        return accepted(next(self._numbers))

    async def status(self, request: httpx.Request) -> httpx.Response:
        external_id = request.url.params["externalId"]
        self.asked.append(external_id)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        replies = self.words.get(external_id, ["Wait"])
        reply = replies.pop(0) if len(replies) > 1 else replies[0]
        if isinstance(reply, Exception):
            raise reply
        return status_reply(external_id, reply) if isinstance(reply, str) else reply


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """However often the provider fails, it is asked: the breaker's pause is not under test here."""
    return settings.model_copy(update={"kaspi_breaker_failures": 0})


@pytest.fixture
def kaspi(wire: respx.MockRouter) -> Kaspi:
    kaspi = Kaspi()
    wire.get("/create/").mock(side_effect=kaspi.create)
    wire.get("/status/").mock(side_effect=kaspi.status)
    return kaspi


Making = Callable[..., Awaitable[Payment]]


@pytest.fixture
def make(services: Services, shops: dict[int, str], kaspi: Kaspi) -> Making:
    """Makes a payment; with a word, one that has heard it from the provider already."""

    async def make(word: str | None = None, **request: Any) -> Payment:
        number = next(numbers)
        payment = (await services.payments.create(ask(**{"message": f"Flowers {number}", **request}))).payment
        if word:
            kaspi.says(payment, word)
            payment = await services.reading.refresh(payment)
        return payment

    numbers = itertools.count()
    return make


@pytest.fixture
def reconciliation(services: Services) -> Reconciliation:
    """With the pauses of a test; the words of failure are believed at a second reading right after the first."""
    moves = replace(services.reading.moves, plan=replace(services.reading.moves.plan, confirm_s=0))
    following = replace(services.reading, moves=moves)
    return Reconciliation(services.database, services.providers, following, pauses_s=(0, 0))


Found = Callable[..., Awaitable[list[Finding]]]


@pytest.fixture
def found(reconciliation: Reconciliation) -> Found:
    """What a whole walk finds."""

    async def found(period: Period = ALL, *, apply: bool = False) -> list[Finding]:
        walk = Walk()
        assert await reconciliation.run(period, walk, apply=apply, stopping=asyncio.Event(), moved_on=lambda: None)
        return walk.findings

    return found


async def set_state(sql: asyncpg.Connection, payment: Payment, **columns: Any) -> None:
    """Write what no lawful way would."""
    async with sql.transaction():
        await sql.execute("SET LOCAL session_replication_role = replica")
        names = ", ".join(f"{name} = ${number}" for number, name in enumerate(columns, 2))
        await sql.execute(f"UPDATE payment SET {names} WHERE id = $1", payment.id, *columns.values())
