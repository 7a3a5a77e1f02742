"""Imports the database of the old service: the routing of its shops and every line of its log.

The old database is only read, in one snapshot. The import is idempotent: a line of the log is recognised by its old id,
a shop by its number. A shop that is routed differently here is never changed.
"""

from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final

import asyncpg
from sqlalchemy import func, insert, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from payment_service.audit.models import AuditEntry, ReportTaken
from payment_service.errors import InvalidInput
from payment_service.observability.logs import scrub
from payment_service.postgres.connecting import connect_arguments, trouble_of
from payment_service.postgres.database import CONNECT_TIMEOUT_S, Database
from payment_service.providers.registry import DEFAULT
from payment_service.routing import importing
from payment_service.routing.importing import Planned
from payment_service.routing.service import Routing, checked_fields

ACTOR: Final = "legacy"
SETTING: Final = "LEGACY_DATABASE_URL"
PAGE: Final = 1000
_LOCK: Final = 0x6C6567616379  # "legacy"
_TEXTS: Final = {"organization_bin": 12, "operation_type": 20, "external_id": 50, "status": 50, "provider": 20}


@dataclass(slots=True)
class Count:
    """Lines of the log and the sum of their amounts in tiyn."""

    lines: int = 0
    amount: int = 0


@dataclass(slots=True)
class LogReport:
    """The result of importing the old log."""

    there: Count = field(default_factory=Count)
    """Lines of the old database."""
    before: Count = field(default_factory=Count)
    """Of those here, before the import."""
    after: Count = field(default_factory=Count)
    """Of those here, after the import."""
    problems: list[str] = field(default_factory=list)
    """Lines that cannot be stored as they are."""


class LegacyDatabaseError(Exception):
    """The old database cannot be read; the text says why."""


@asynccontextmanager
async def legacy_database(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """The old database, as it stands at this moment; nothing can be written to it.

    Raises:
        LegacyDatabaseError: when it cannot be reached or read, or is not the old service's.
        ConnectArgumentError: for an address that cannot be understood.
    """
    try:
        connection = await asyncpg.connect(**connect_arguments(dsn, name=SETTING), timeout=CONNECT_TIMEOUT_S)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        trouble = trouble_of(error, name=SETTING)
        sentence = trouble.sentence if trouble else f"The old database cannot be used ({type(error).__name__})."
        raise LegacyDatabaseError(sentence) from error
    try:
        await _check_tables(connection)
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            yield connection
    finally:
        await connection.close()


async def _check_tables(connection: asyncpg.Connection) -> None:
    for name in ("paymentconfig", "paymentlog"):
        kind = await connection.fetchval("SELECT relkind::text FROM pg_class WHERE oid = to_regclass($1)", name)
        if kind is None:
            raise LegacyDatabaseError(f"The old database has no table {name}: is this the right one?")
        if kind == "v":
            raise LegacyDatabaseError(
                f"In that database {name} is a view: it is this service's own, not the old one's."
            )
        if not await connection.fetchval("SELECT has_table_privilege($1, 'SELECT')", name):
            raise LegacyDatabaseError(
                f"The user of {SETTING} may not read {name}: GRANT SELECT ON {name} TO that user."
            )


async def import_routing(
    old: asyncpg.Connection, routing: Routing, *, skip: Collection[int], dry_run: bool
) -> tuple[list[Planned], list[str]]:
    """Import the routing of every shop but those to skip; returns the changes, and the conflicts.

    With any conflict nothing is changed.
    """
    known = {row.shop_id: row.fields for row in importing.parse(importing.packaged_shops())}
    rows, problems = [], []
    for number, found in enumerate(await old.fetch("SELECT * FROM paymentconfig ORDER BY shop_id"), 1):
        if found["shop_id"] in skip:
            continue
        try:
            fields = checked_fields(_config_of(found))
        except InvalidInput as error:
            problems.append(f"Shop {found['shop_id']}: {error.detail}")
            continue
        names = {name: known.get(found["shop_id"], {}).get(name, "") for name in ("name", "city")}
        rows.append(importing.Row(number, found["shop_id"], fields | names))
    # Compared and written in one transaction: a shop that is made meanwhile keeps its routing.
    async with routing.database.reading() if dry_run else routing.database.transaction() as session:
        existing = await routing.lock_all(session)
        planned = [_of_routing(importing.plan(routing, row, existing.get(row.shop_id))) for row in rows]
        problems.extend(
            f"Shop {plan.shop_id} is routed differently here ({', '.join(sorted(plan.changes))}): look which is right."
            for plan in planned
            if plan.action == "change"
        )
        if not problems:
            reason = "taken over from the old service"
            await importing.write(routing, session, rows, existing, reason=reason, new_only=True)
    routing.cache.forget_all()
    return planned, problems


def _of_routing(plan: Planned) -> Planned:
    """The plan without name and city: a shop that is here keeps them. Where its money goes may not differ."""
    if plan.action != "change":
        return plan
    changes = {name: change for name, change in plan.changes.items() if name not in {"name", "city"}}
    return replace(plan, action="change" if changes else "keep", changes=changes)


def _config_of(found: Mapping[str, Any]) -> dict[str, Any]:
    fields = {
        "organization_bin": (found["organization_bin"] or "").strip(),
        "provider": found.get("provider") or DEFAULT,
        "is_active": found.get("is_active") is not False,
    }
    token = (found.get("device_token") or "").strip()
    return {**fields, "device_token": token} if token else fields


async def import_log(
    old: asyncpg.Connection, database: Database, *, dry_run: bool, advance: Callable[[int], None]
) -> LogReport:
    """Import every line of the old log that is not here yet. ``advance`` is called with the number of lines done."""
    report = LogReport(there=_count(await old.fetchrow("SELECT count(*), sum(amount) FROM paymentlog")))
    report.before = report.after = await _imported(database)
    after_id = -1
    while rows := await old.fetch(
        "SELECT * FROM paymentlog WHERE id > $1::bigint ORDER BY id LIMIT $2", after_id, PAGE
    ):
        after_id = rows[-1]["id"]
        lines = []
        for row in rows:
            try:
                lines.append(_line(row))
            except ValueError as error:
                report.problems.append(f"Line {row['id']}: {error}.")
        if not dry_run:
            async with database.transaction() as session:
                await _write_missing(session, lines)
        advance(len(rows))
    if not dry_run:
        report.after = await _imported(database)
    return report


async def _write_missing(session: AsyncSession, lines: list[dict[str, Any]]) -> None:
    await session.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    here = await session.scalars(
        select(ReportTaken.report_id).where(
            ReportTaken.report_id.in_([line["report_id"] for line in lines]), ReportTaken.actor == ACTOR
        )
    )
    known = set(here)
    missing = [line for line in lines if line["report_id"] not in known]
    if missing:
        await session.execute(insert(AuditEntry), missing)


async def _imported(database: Database) -> Count:
    async with database.reading() as session:
        query = select(func.count(), func.sum(AuditEntry.amount)).where(AuditEntry.source == ACTOR)
        return _count((await session.execute(query)).one())


def _count(row: Any) -> Count:
    return Count(int(row[0]), int(row[1] or 0))


def _line(row: Mapping[str, Any]) -> dict[str, Any]:
    """A line as our audit log stores it.

    Raises:
        ValueError: for one that our log cannot hold as it is.
    """
    for name, longest in _TEXTS.items():
        if len(row.get(name) or "") > longest:
            raise ValueError(f"its {name} is longer than {longest} characters")
    if (row["amount"] or 0) < 0:
        raise ValueError("its amount is below zero")
    if not row["operation_type"]:
        raise ValueError("it has no operation_type")
    return {
        **{name: row.get(name) for name in _TEXTS},
        "provider": row.get("provider") or DEFAULT,
        "shop_id": row["shop_id"],
        "amount": row["amount"],
        # An error of the old service may quote the address that it called, with a token and a phone.
        "error_message": scrub(row.get("error_message") or "")[:500] or None,
        "actor": ACTOR,
        "source": ACTOR,
        "report_id": f"{ACTOR}-{row['id']}",
        "created_at": _moment(row["created_at"]),
    }


def _moment(value: datetime) -> datetime:
    """The old service wrote UTC without saying so."""
    return value if value.tzinfo else value.replace(tzinfo=UTC)
