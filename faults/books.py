"""The three records of what happened: what clients were told, what the database holds, what the stand-in applied.

Plain data, so that the checker can be given books that were made by hand. Amounts are whole tiyn; device tokens
appear as their SHA-256.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import asyncpg

from faults.clients import Told
from faults.rig import Arrival, Rig
from payment_service.postgres.vault import Vault
from tests.support.shops import ENCRYPTION_KEY


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentRow:
    """A row of ``payment``."""

    id: UUID
    method: str | None
    shop_id: int
    organization_bin: str | None
    token_sha256: str | None
    amount: int | None
    message: str
    short_code: str | None
    order_id: str | None
    state: str
    failure: str | None
    external_id: str | None
    refunded_amount: int
    reserved_amount: int
    source: str
    created_at: float = 0
    """In Unix seconds."""
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RefundRow:
    """A row of ``refund``."""

    id: UUID
    payment_id: UUID
    amount: int
    state: str
    created_at: float = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line of the record that tells of a move."""

    payment_id: UUID
    refund_id: UUID | None
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MoneyCall:
    """A create, create-link or refund that the stand-in took, in the order in which it took them."""

    op: str
    organization_bin: str | None
    token_sha256: str | None
    amount: int
    phone: str | None = field(default=None, repr=False)
    message: str | None = None
    external_id: str | None
    default_merchant_used: bool = False
    applied: bool = True

    @property
    def short_code(self) -> str:
        """The code that the service put at the end of the message."""
        return (self.message or "").rpartition("#")[2]

    @property
    def word(self) -> str:
        """The message that the client gave."""
        return (self.message or "").rpartition("#")[0].rstrip()


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusCall:
    """A question for a payment's status that the stand-in took. ``time`` in Unix seconds."""

    external_id: str
    time: float


@dataclass(slots=True, kw_only=True)
class Records:
    """What is to be compared."""

    told: Sequence[Told] = ()
    payments: Sequence[PaymentRow] = ()
    refunds: Sequence[RefundRow] = ()
    log: Sequence[Line] = ()
    claims: Mapping[str, UUID | None] = field(default_factory=dict)
    """Idempotency-Key -> the payment or refund that it stands for."""
    calls: Sequence[MoneyCall] = ()
    """Whatever the stand-in was asked to do, with effect or without."""
    readings: Sequence[StatusCall] = ()
    confirm_s: float = 0
    """How far apart two readings of ``Error`` must be before it is believed."""
    lease_s: float = 0
    """For how long a sender may be waited for."""
    unharmed: frozenset[int] = frozenset()
    """Shops that nothing befalls."""
    arrivals: Sequence[Arrival] = ()
    written: str = field(default="", repr=False)
    """What the processes logged, and what the database's text columns hold."""
    secrets: frozenset[str] = field(default=frozenset(), repr=False)

    @property
    def applied(self) -> list[MoneyCall]:
        """The calls that took effect."""
        return [call for call in self.calls if call.applied]

    @property
    def unknown(self) -> int:
        """How many payments and refunds nobody knows the end of."""
        return sum(row.state == "unknown" for row in self.payments) + sum(
            row.state == "unknown" for row in self.refunds
        )


_PAYMENTS = """
SELECT p.id, p.method, p.shop_id, p.organization_bin, p.amount, p.message, p.short_code, p.order_id, p.state,
       p.failure, p.external_id, p.refunded_amount, p.reserved_amount, p.source, p.device_token_id, t.ciphertext,
       extract(epoch FROM p.created_at)::float8 AS created_at, p.metadata::text AS metadata
FROM payment AS p LEFT JOIN device_token AS t ON t.id = p.device_token_id
WHERE p.created_at >= $1 OR p.external_id = ANY($2::text[]) OR p.short_code = ANY($3::text[]) OR p.id = ANY($4::uuid[])
"""


async def read_database(
    sql: asyncpg.Connection, books: Records, *, since: Any, external_ids: set[str], codes: set[str]
) -> None:
    """Fill in what the database holds of the payments made since a moment, and of those that are named."""
    vault = Vault([ENCRYPTION_KEY])
    opened: dict[str, str] = {}

    def token_hash(token_id: int | None, ciphertext: str | None) -> str | None:
        if ciphertext is None:
            return None
        if ciphertext not in opened:
            token = vault.decrypt(ciphertext, f"device_token/{token_id}")
            opened[ciphertext] = hashlib.sha256(token.encode()).hexdigest()
        return opened[ciphertext]

    books.payments = [
        PaymentRow(
            token_sha256=token_hash(row["device_token_id"], row["ciphertext"]),
            metadata=json.loads(row["metadata"]),
            **{name: value for name, value in row.items() if name not in {"device_token_id", "ciphertext", "metadata"}},
        )
        for row in await sql.fetch(_PAYMENTS, since, list(external_ids), list(codes), _ids_told(books.told))
    ]
    ids = [payment.id for payment in books.payments]
    refunds = await sql.fetch(
        "SELECT id, payment_id, amount, state, extract(epoch FROM created_at)::float8 AS created_at"
        " FROM refund WHERE payment_id = ANY($1::uuid[]) ORDER BY refund.created_at",
        ids,
    )
    books.refunds = [RefundRow(**row) for row in refunds]
    lines = await sql.fetch(
        "SELECT payment_id, refund_id, state FROM payment_log"
        " WHERE payment_id = ANY($1::uuid[]) AND state IS NOT NULL AND source = 'service' ORDER BY id",
        ids,
    )
    books.log = [Line(**row) for row in lines]
    keys = [told.asked.key for told in books.told if told.asked.key]
    claims = await sql.fetch(
        "SELECT idempotency_key, operation_id FROM idempotency_claim WHERE idempotency_key = ANY($1::text[])", keys
    )
    books.claims = {row["idempotency_key"]: row["operation_id"] for row in claims}


def _ids_told(told: Sequence[Told]) -> list[str]:
    """Our ids of the payments that clients were told of."""
    return [str(one.body["id"]) for one in told if one.body.get("id")]


async def text_of_rows(sql: asyncpg.Connection) -> str:
    """Everything that the database holds, as text: for looking for what must not be there."""
    tables = await sql.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    pieces: list[str] = []
    for table in tables:
        name = table["tablename"]
        pieces += [row[0] for row in await sql.fetch(f'SELECT t::text FROM "{name}" AS t')]
    return "\n".join(pieces)


def money_calls(ledger: Sequence[Mapping[str, Any]]) -> list[MoneyCall]:
    """The creates, links and refunds of a ledger."""
    return [
        MoneyCall(
            op=entry["op"],
            organization_bin=entry["organization_bin"],
            token_sha256=entry["device_token_sha256"],
            amount=entry["amount"] or 0,
            phone=entry["phone"],
            message=entry["message"],
            external_id=entry["external_id"],
            default_merchant_used=entry["default_merchant_used"],
            applied=entry["applied"],
        )
        for entry in ledger
        if entry["op"] != "status"
    ]


async def gather(
    rig: Rig, told: Sequence[Told], *, everything: bool = False, unharmed: frozenset[int] = frozenset()
) -> Records:
    """The books of what happened in a rig since its last check, or of all that ever happened in it."""
    phones = {told.asked.phone for told in told if told.asked.phone}
    secrets = frozenset(rig.secrets | phones)
    books = Records(told=told, secrets=secrets, confirm_s=rig.confirm_s, lease_s=rig.lease_s, unharmed=unharmed)
    # The ledger first: what it holds was written down before, so the database must know it.
    ledger = rig.entries()
    calls = money_calls(ledger)
    external_ids = {told.body["external_id"] for told in told if told.body.get("external_id")}
    external_ids |= {told.asked.external_id for told in told if told.asked.external_id}
    fresh = calls[rig.checked_calls :]
    external_ids |= {call.external_id for call in fresh if call.external_id}
    codes = {call.short_code for call in fresh if call.op != "refund"}
    async with rig.pool.acquire() as sql, sql.transaction(isolation="repeatable_read", readonly=True):
        now = await sql.fetchval("SELECT now()")
        since = await sql.fetchval("SELECT '-infinity'::timestamptz") if everything else rig.since
        await read_database(sql, books, since=since, external_ids=external_ids, codes=codes)
        text = await text_of_rows(sql) if everything else ""
    codes |= {payment.short_code or "" for payment in books.payments}
    external_ids |= {payment.external_id for payment in books.payments if payment.external_id}
    books.calls = [
        call
        for call in calls
        if (call.external_id in external_ids if call.op == "refund" else call.short_code in codes)
    ]
    books.readings = [
        StatusCall(external_id=entry["external_id"], time=entry["time"])
        for entry in ledger
        if entry["op"] == "status" and entry["external_id"] in external_ids
    ]
    books.arrivals = rig.arrivals if everything else rig.arrivals[rig.checked_arrivals :]
    books.written = f"{rig.newly_written()}\n{text}"
    rig.since, rig.checked_calls, rig.checked_arrivals = now, len(calls), len(rig.arrivals)
    return books
