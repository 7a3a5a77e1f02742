"""Asking the services for payments, with the proxy's side of the wire played by respx."""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Sequence
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import respx
from sqlalchemy import select
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from payment_service.access.service import FULL_ACCESS, Caller, Scope
from payment_service.errors import DatabaseUnavailable, StillRunning
from payment_service.identifiers import new_id
from payment_service.money import Money
from payment_service.observability.metrics import ALARMS
from payment_service.payments.models import Payment
from payment_service.payments.service import Answer, PaymentRequest
from payment_service.postgres.visibility import ALL_SHOPS
from payment_service.services import Services
from tests.support.replies import accepted, status_reply
from tests.support.shops import SHOPS, device_token_of

SHOP = 121038
OTHER_SHOP = 75509
PHONE = "77015211545"
KEY = "key-of-this-request"
FIRST_ID = 12_800_000_001

TERMINATE_OTHERS = """
    SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


def called(name: str) -> Caller:
    """A caller of this process who may do everything."""
    return Caller(name, frozenset(Scope), ALL_SHOPS)


TESTS = called("tests")


def ask(tenge: int | str = 100, **changes: Any) -> PaymentRequest:
    words: dict[str, Any] = {"caller": TESTS, "shop_id": SHOP, "phone": PHONE, "message": "Flowers", **changes}
    return PaymentRequest(amount=Money.from_tenge(tenge), **words)


def id_made(in_s: float) -> UUID:
    """An id (UUIDv7) that is made so many seconds from now."""
    made_ms = int((time.time() + in_s) * 1000)
    return UUID(int=made_ms << 80 | new_id().int & (1 << 80) - 1)


def taking(wire: respx.MockRouter, *, link: bool = False) -> respx.Route:
    """A proxy that takes on every payment, each with an id of its own."""
    numbers = itertools.count(FIRST_ID)

    def take(_request: httpx.Request) -> httpx.Response:
        number = next(numbers)
        if not link:
            return accepted(number)
        return accepted(paymentId=number, paymentLink=f"https://pay.kaspi.kz/pay/{number}")

    return wire.get("/create-link/" if link else "/create/").mock(side_effect=take)


def refunded() -> httpx.Response:
    """The proxy's reply to a refund that was made: nothing."""
    return httpx.Response(200, headers={"Content-Length": "0"})


class Gate:
    """A proxy that has taken a call and answers only when it is told to."""

    def __init__(self, reply: httpx.Response | Exception) -> None:
        self.reached = asyncio.Event()
        self.open = asyncio.Event()
        self.calls = 0
        self._reply = reply

    async def __call__(self, _request: httpx.Request) -> httpx.Response:
        self.calls += 1
        self.reached.set()
        await self.open.wait()
        if isinstance(self._reply, Exception):
            raise self._reply
        return self._reply


async def all_of(*asked: Awaitable[Answer]) -> tuple[list[Answer], list[BaseException]]:
    """Ask all at once; the answers, and the errors."""
    ended: Sequence[Answer | BaseException] = await asyncio.gather(*asked, return_exceptions=True)
    answers = [end for end in ended if isinstance(end, Answer)]
    return answers, [end for end in ended if isinstance(end, BaseException)]


async def paid(services: Services, wire: respx.MockRouter, request: PaymentRequest | None = None) -> Payment:
    """A payment that the customer has paid."""
    taking(wire)
    payment = (await services.payments.create(request or ask())).payment
    wire.get("/status/", params={"externalId": payment.external_id}).mock(
        return_value=status_reply(str(payment.external_id), "Processed")
    )
    return await services.reading.refresh(payment)


async def age(sql: asyncpg.Connection, seconds: float, table: str = "payment") -> None:
    """Let rows be older than they are."""
    async with sql.transaction():
        await sql.execute("SET LOCAL session_replication_role = replica")
        moments = ("created_at",) if table == "idempotency_claim" else ("created_at", "known_at", "moved_at")
        older = ", ".join(f"{moment} = {moment} - make_interval(secs => $1)" for moment in moments)
        await sql.execute(f"UPDATE {table} SET {older}", seconds)


async def audit_of(sql: asyncpg.Connection, operation: str = "%") -> list[tuple[str, str | None]]:
    """The record, as operation and state, oldest first."""
    rows = await sql.fetch(
        "SELECT operation_type, state FROM payment_log WHERE operation_type LIKE $1 AND subject IS NULL ORDER BY id",
        operation,
    )
    return [(row["operation_type"], row["state"]) for row in rows]


class Alarms(dict[str, int]):
    """How often each alarm was raised since this was made."""

    def __init__(self) -> None:
        super().__init__()
        self._before = self._counted()

    def __missing__(self, name: str) -> int:
        return int(self._counted().get(name, 0) - self._before.get(name, 0))

    @staticmethod
    def _counted() -> dict[str, float]:
        [family] = ALARMS.collect()
        return {sample.labels["alarm"]: sample.value for sample in family.samples if sample.name.endswith("_total")}


async def two_shops(services: Services) -> dict[int, str]:
    """The routing of the two shops that are asked for here; returns shop_id -> BIN."""
    found = {shop_id: SHOPS[shop_id] for shop_id in (SHOP, OTHER_SHOP)}
    for shop_id, organization_bin in found.items():
        fields = {"organization_bin": organization_bin, "device_token": device_token_of(shop_id)}
        await services.routing.create(FULL_ACCESS, shop_id, fields)
    return found


async def payments_of(services: Services) -> list[Payment]:
    """Every payment and every report, oldest first."""
    async with services.database.reading() as session:
        return list(await session.scalars(select(Payment).order_by(Payment.created_at, Payment.id)))


def busy(error: object) -> bool:
    """Whether the error only says to come again: fifty at once may be more than the pool holds on a slow machine."""
    return isinstance(error, StillRunning | DatabaseUnavailable | PoolTimeoutError)
