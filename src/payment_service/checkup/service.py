"""Checks everything around this service, with what to do about each finding: settings, database, provider, workers.

Nothing is changed, and nothing is sent that moves money: the provider is asked for the status of a payment that cannot
exist. No finding holds a secret, a phone or a buyer.
"""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Final, Self
from urllib.parse import urlsplit

from payment_service.access.service import SERVICE
from payment_service.audit import checking
from payment_service.idempotency.holding import HOLD_TEXTS
from payment_service.observability.metrics import CERTIFICATE_END, HOST_CLOCK_AHEAD, values_of
from payment_service.postgres import schema
from payment_service.postgres.blocking import blocking
from payment_service.postgres.connecting import connect_arguments, trouble_of
from payment_service.postgres.guarantees import Guarantees, guarantees
from payment_service.postgres.health import SKEW_S, SLOW_S, database_health
from payment_service.postgres.months import months
from payment_service.postgres.rights import lacking
from payment_service.postgres.vault import VaultError
from payment_service.providers.interface import NoSuchPayment, StatusRead, StatusUnread
from payment_service.scheduling.lateness import LATENESS_LIMITS, Lateness
from payment_service.scheduling.ticks import workers
from payment_service.services import Services, serving_database

HOST_SKEW_S: Final = 30.0
"""Beyond that the clocks of this machine and of a provider's host differ for another reason than the way to it."""
CERTIFICATE_DAYS: Final = 14
LITTLE_DISK, NO_DISK = 0.2, 0.05
"""The shares of a disk that are free when it is time to act, and to act at once."""
MANY_UNFROZEN, TOO_MANY_UNFROZEN = 1_000_000_000, 1_600_000_000
"""Of transactions. PostgreSQL freezes by itself at 200 million, and does nothing else from 1,600 on."""
_HERE: Final = ("127.0.0.1", "::1", "localhost", "/")
SEALS_LATE_S: Final = 300.0
LOST_S: Final = 300.0
"""What is being sent for longer has lost its sender: no call takes so long, and workers look every few seconds."""
OLD_TASK_S: Final = 3600.0
NO_PAYMENT: Final = "1"
"""An id of the provider's that no payment of ours can have: theirs have eleven digits."""


class Level(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    WARNING = "warning"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was checked, what was found, and what to do about it; nothing to do when it is well."""

    what: str
    level: Level
    sentence: str
    remedy: str = ""

    @classmethod
    def of(cls, what: str, level: Level, sentence: str, remedy: str) -> Self:
        """With its remedy, unless it is well."""
        return cls(what, level, sentence, "" if level is Level.OK else remedy)


_LATE: Final = {
    "readings": "more workers, or a proxy that answers",
    "events": "the worker's log: event_not_taken",
    "deliveries": "docs/events.md: a site does not take its events",
    "messages": "docs/notify.md: a channel does not take messages, or is not set up here",
}
_LAWS_ON: Final = (
    "RESET session_replication_role for the role, the database or the server, and so with search_path; "
    "ALTER TABLE ... ENABLE TRIGGER ALL, DISABLE ROW LEVEL SECURITY; "
    "SELECT setval(SEQUENCE, ID) with the highest id of its table; "
    "ALTER TABLE ... SET LOGGED; "
    "what lacks as 'migrate' makes it in an empty database (pg_dump --schema-only, and compare); "
    "REINDEX DATABASE NAME, and then ALTER DATABASE NAME REFRESH COLLATION VERSION; "
    "restart all; payment-service audit verify"
)
_LEVELS: Final = {Lateness.IN_TIME: Level.OK, Lateness.LATE: Level.WARNING, Lateness.TOO_LATE: Level.BAD}
Check = Callable[[Services], Awaitable[Sequence[Finding]]]


async def run_checks(services: Services) -> AsyncIterator[Finding]:
    """Check everything, what other checks depend on first. A check that fails is a finding too."""
    for finding in _settings(services):
        yield finding
    try:
        found = await _database(services)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what the check is for
        trouble = trouble_of(error)
        yield Finding("database", Level.BAD, trouble.sentence if trouble else type(error).__name__, "DATABASE_URL")
        found = []
    for finding in found:
        yield finding
    checks: list[Check] = [_provider]
    if found and not any(one.what == "schema" and one.level is Level.BAD for one in found):
        checks += [_locks, _rights, _sending, _secrets, _shops, _keys, _workers]
        checks += [_work, _open, _tasks, _webhooks, _seals, _months]
    for check in checks:
        try:
            shown = await check(services)
        except Exception as error:  # noqa: BLE001 - one check that fails hides no other
            shown = [Finding(check.__name__.strip("_"), Level.BAD, f"could not be looked at: {type(error).__name__}")]
        for finding in shown:
            yield finding


def _settings(services: Services) -> list[Finding]:
    settings = services.settings
    found = [Finding("settings", Level.OK, "all of them can work")]
    real = not settings.provider_is_here
    if real and settings.metrics_token is None:
        found.append(
            Finding("settings", Level.WARNING, "nobody can read the metrics", "set METRICS_TOKEN, and WORKER_PORT")
        )
    if real and not settings.rate_limits:
        found.append(Finding("settings", Level.BAD, "no rate limits hold", "remove RATE_LIMITS=off"))
    if real and settings.kaspi.breaker_failures == 0:
        found.append(Finding("settings", Level.WARNING, "no circuit breaker", "remove KASPI_BREAKER_FAILURES=0"))
    return found


async def _database(services: Services) -> list[Finding]:
    serving = serving_database(services.settings)
    try:
        await serving.check_sessions()
        promised = await guarantees(serving)
    finally:
        await serving.close()
    found = await database_health(services.database)
    answered = f"PostgreSQL {found.version.split()[0]} answers in {found.answered_in_s * 1000:.0f} ms"
    skew = f"the database's clock is {abs(found.clock_ahead_s):.1f} s {_ahead(found.clock_ahead_s)}"
    return [
        Finding.of("database", _warning(found.answered_in_s > SLOW_S), answered, "is it near, and is it overloaded?"),
        Finding.of("database clock", _warning(abs(found.clock_ahead_s) > SKEW_S), skew, "set both clocks by NTP"),
        _of_schema(found.revision),
        *(_of_guarantees(promised) if found.revision else ()),  # an empty database has no laws to switch off
        _of_disk(promised, services.settings.session_url),
    ]


def _of_schema(revision: str | None) -> Finding:
    if revision == schema.head():
        return Finding("schema", Level.OK, f"at {revision}, as this release needs")
    sentence = f"at {revision or 'nothing'}, and this release needs {schema.head()}"
    is_newer = schema.is_newer(revision)
    remedy = "use the release that migrated it, or a later one" if is_newer else "payment-service migrate"
    return Finding("schema", Level.BAD, sentence, remedy)


def _of_guarantees(found: Guarantees) -> list[Finding]:
    return [*_of_laws(found), *_of_server_settings(found)]


def _of_laws(found: Guarantees) -> Iterator[Finding]:
    if found.laws_off:
        yield Finding("laws", Level.BAD, found.laws_off, _LAWS_ON)
    else:
        yield Finding("laws", Level.OK, "the triggers that guard the record fire")
    if found.added:
        sentence = f"not of this service, and may drop, change or refuse what is written: {', '.join(found.added)}"
        remedy = "whose are they, and can they go? What is refused after a payment was sent leaves it unknown"
        yield Finding("laws", Level.WARNING, sentence, remedy)


def _of_server_settings(found: Guarantees) -> Iterator[Finding]:
    for name, (value, wanted) in found.wrong_settings.items():
        sentence = f"a session of the service has {name}={value} and needs {wanted}"
        yield Finding("database", Level.BAD, sentence, "docs/deploy.md, 'Behind PgBouncer'")
    if found.forgets_by:
        switched_off = " and ".join(f"{name}=off" for name in found.forgets_by)
        sentence = f"PostgreSQL runs with {switched_off} and forgets payments when its machine stops"
        yield Finding("database", Level.BAD, sentence, ", ".join(f"{name}=on" for name in found.forgets_by))
    if not found.vacuums:
        sentence = "autovacuum is off: tables grow, and in the end PostgreSQL takes no writes"
        yield Finding("database", Level.WARNING, sentence, "autovacuum=on")
    if found.unfrozen > MANY_UNFROZEN:
        sentence = f"{found.unfrozen / 1e6:,.0f} million transactions are not frozen; at 2,100 it takes no writes"
        remedy = "end old transactions, prepared ones and unused replication slots; then VACUUM (FREEZE) as a superuser"
        level = Level.BAD if found.unfrozen > TOO_MANY_UNFROZEN else Level.WARNING
        yield Finding("database", level, sentence, remedy)
    if found.wal_level == "minimal":
        sentence = "wal_level is minimal: no replica, and no restore to a moment"
        yield Finding("database", Level.WARNING, sentence, "wal_level=replica, and archive what it writes")


def _of_disk(found: Guarantees, database_url: str) -> Finding:
    """How full the disk is, where it can be seen: on this machine, by a role that may know where the database is."""
    takes = f"the database takes {_bytes(found.size)}"
    host = connect_arguments(database_url)["host"]
    is_here = isinstance(host, str) and host.startswith(_HERE)
    if not (is_here and found.data_directory and Path(found.data_directory).is_dir()):
        return Finding("disk", Level.OK, f"{takes}; how full its disk is cannot be seen from here")
    disk = shutil.disk_usage(found.data_directory)
    free = disk.free / disk.total
    level = Level.BAD if free < NO_DISK else Level.WARNING if free < LITTLE_DISK else Level.OK
    sentence = f"{takes}; {_bytes(disk.free)} of its disk's {_bytes(disk.total)} are free"
    return Finding.of("disk", level, sentence, "a larger disk, or what else fills it")


def _warning(is_wrong: bool) -> Level:
    return Level.WARNING if is_wrong else Level.OK


def _ahead(seconds: float) -> str:
    return "ahead" if seconds > 0 else "behind"


def _bytes(number: float) -> str:
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.0f} MB"


async def _locks(services: Services) -> list[Finding]:
    held = await blocking(services.database)
    if not held:
        return [Finding("locks", Level.OK, "nobody holds a table that payments write")]
    sentence = "; ".join(f"{one.who} holds {one.what}" for one in held)
    pids = [f"pg_terminate_backend({one.pid})" for one in held if one.pid]
    remedy = f"what do they do? pg_stat_activity, pg_prepared_xacts; {', '.join(pids)}"
    return [Finding("locks", Level.BAD, f"statements wait: {sentence}", remedy)]


async def _rights(services: Services) -> list[Finding]:
    async with services.database.reading() as session:
        lacks = await lacking(session)
    if lacks:
        remedy = "as the owner of the database: the GRANTs of docs/deploy.md"
        return [Finding("rights", Level.BAD, f"the user of DATABASE_URL lacks {', '.join(lacks)}", remedy)]
    return [Finding("rights", Level.OK, "the user of DATABASE_URL may write what the service writes")]


async def _sending(services: Services) -> list[Finding]:
    status = await services.holding.status()
    if status.hold_reason is None:
        findings = [Finding("sending", Level.OK, "payments and refunds are sent")]
    else:
        remedy = "docs/deploy.md, 'After a restore or a failover'; then payment-service sending release"
        findings = [Finding("sending", Level.BAD, f"payments and refunds are {HOLD_TEXTS[status.hold_reason]}", remedy)]
    if status.latest.provider not in {None, services.holding.provider}:
        sentence = f"this database has the payments of another provider: {status.latest.provider}"
        remedy = "PRODUCTION_API_URL; after a move payment-service sending release --proxy-moved"
        findings.append(Finding("sending", Level.BAD, sentence, remedy))
    return findings


async def _secrets(services: Services) -> list[Finding]:
    try:
        unreadable = await services.check_secrets()
    except VaultError:
        sentence = "ENCRYPTION_KEYS do not open what is in the database"
        return [Finding("secrets", Level.BAD, sentence, "use the keys that wrote it")]
    if unreadable:
        sentence = f"ENCRYPTION_KEYS do not open the device token of shop {_listed(unreadable)}: it takes no payments"
        return [Finding("secrets", Level.BAD, sentence, "the key that wrote it; or payment-service shops set-token")]
    return [Finding("secrets", Level.OK, "ENCRYPTION_KEYS open the device tokens")]


async def _shops(services: Services) -> list[Finding]:
    shops = await services.routing.configs(SERVICE)
    active = [shop for shop in shops if shop.row.is_active]
    findings = [Finding("shops", Level.OK, f"{len(active)} of {len(shops)} are active")]
    if not active:
        findings = [Finding("shops", Level.BAD, "no shop is active", "payment-service shops")]
    without = sorted(shop.row.shop_id for shop in active if shop.device_token is None)
    if without:
        sentence = f"no device token: {_listed(without)}; they take no links and pay nothing back"
        findings.append(Finding("shops", Level.WARNING, sentence, "payment-service shops set-token"))
    by_bin: dict[str, list[int]] = {}
    for shop in active:
        by_bin.setdefault(shop.row.organization_bin, []).append(shop.row.shop_id)
    for organization_bin, of_bin in by_bin.items():
        if len(of_bin) > 1:
            sentence = f"shops {_listed(of_bin)} share BIN {organization_bin}"
            findings.append(Finding("shops", Level.WARNING, sentence, "make sure that they are one seller's"))
    return findings


async def _keys(services: Services) -> list[Finding]:
    now = datetime.now(UTC)
    holding = [
        key
        for key in await services.access.all()
        if key.revoked_at is None and (key.expires_at is None or key.expires_at > now)
    ]
    if not holding:
        return [Finding("keys", Level.BAD, "nobody can call", "payment-service keys create")]
    soon = [key.name for key in holding if key.expires_at and (key.expires_at - now).days < 14]
    if soon:
        return [Finding("keys", Level.WARNING, f"{', '.join(soon)} end within 14 days", "make new ones")]
    return [Finding("keys", Level.OK, f"{len(holding)} hold")]


async def _provider(services: Services) -> list[Finding]:
    readings = await asyncio.gather(*(one.read_status(NO_PAYMENT) for one in services.providers.values()))
    findings = [_of_reading(name, reading) for name, reading in zip(services.providers, readings, strict=True)]
    return [*findings, *_of_host(urlsplit(services.settings.kaspi.url).hostname or "")]


def _of_host(host: str) -> list[Finding]:
    """The clock and the certificate of a host that was just called."""
    findings = []
    ahead_s, end = values_of(HOST_CLOCK_AHEAD).get((host,)), values_of(CERTIFICATE_END).get((host,))
    if ahead_s is not None:
        sentence = f"the clock of {host} is {abs(ahead_s):.0f} s {_ahead(ahead_s)}"
        remedy = "set this machine's by NTP; or its owner sets theirs; or a cache before it answers"
        findings.append(Finding.of("proxy clock", _warning(abs(ahead_s) > HOST_SKEW_S), sentence, remedy))
    if end:
        days = (end - time.time()) / 86400
        sentence = f"the certificate of {host} ends in {days:.0f} days"
        remedy = "call its owner: no sale works without it"
        findings.append(Finding.of("certificate", _warning(days < CERTIFICATE_DAYS), sentence, remedy))
    return findings


def _of_reading(name: str, reading: NoSuchPayment | StatusRead | StatusUnread) -> Finding:
    match reading:
        case StatusUnread(refused_by_proxy=True):
            remedy = "its owner has to check KASPI_ACCESS_TOKEN and the addresses that it allows"
            return Finding(name, Level.BAD, "the proxy refuses this service", remedy)
        case StatusUnread(reason):
            remedy = "PRODUCTION_API_URL, the way to it, or its owner"
            return Finding(name, Level.BAD, f"the proxy cannot be asked: {reason}", remedy)
        case NoSuchPayment():
            return Finding(name, Level.OK, "the proxy answers: there is no such payment")
        case StatusRead(status):
            sentence = f"the proxy answers, with the status {status} for a payment that cannot exist"
            return Finding(name, Level.WARNING, sentence, "does it, or a cache before it, repeat old answers?")


async def _workers(services: Services) -> list[Finding]:
    sweep_every_s = services.settings.sweep_every_s
    alive = [one for one in await workers(services.database) if one.is_alive(sweep_every_s)]
    if not alive:
        sentence = "none runs: no payment is polled, no event or message is sent"
        return [Finding("workers", Level.BAD, sentence, "payment-service worker")]
    releases = {one.version for one in alive}
    if len(releases) > 1:
        return [Finding("workers", Level.WARNING, f"of releases {', '.join(sorted(releases))}", "end the upgrade")]
    return [Finding("workers", Level.OK, f"{len(alive)} of release {releases.pop()}")]


async def _work(services: Services) -> list[Finding]:
    findings = []
    for what, since in (await services.due_since()).items():
        late_s = (datetime.now(UTC) - since).total_seconds() if since else 0
        level = _LEVELS[LATENESS_LIMITS[what].lateness(late_s)]
        sentence = f"the oldest waits for {late_s:.0f} s" if since else "none waits"
        findings.append(Finding.of(what, level, sentence, _LATE[what]))
    return findings


async def _open(services: Services) -> list[Finding]:
    findings = []
    for what, count in (("payments", services.settling.count_open), ("refunds", services.refund_settling.count_open)):
        found = {state: (number, oldest_s) for state, (number, oldest_s) in (await count()).items() if number}
        sentence = "; ".join(
            f"{number} {state}, the oldest for {oldest_s / 60:.0f} min" for state, (number, oldest_s) in found.items()
        )
        level = Level.BAD if found.get("sending", (0, 0.0))[1] > LOST_S else Level.OK
        remedy = "a worker calls it unknown: does one run, and what does its log say?"
        findings.append(Finding.of(what, level, sentence or "none is open", remedy))
    return findings


async def _tasks(services: Services) -> list[Finding]:
    tasks = await services.tasks(SERVICE)
    if not tasks:
        return [Finding("tasks", Level.OK, "nothing waits for people")]
    age_s = (datetime.now(UTC) - tasks[0].since).total_seconds()
    sentence = f"{len(tasks)} wait for people, the oldest for {age_s / 60:.0f} min"
    level = Level.BAD if age_s > OLD_TASK_S else Level.WARNING
    return [Finding("tasks", level, sentence, "payment-service payments tasks")]


async def _webhooks(services: Services) -> list[Finding]:
    endpoints = await services.endpoints.all(SERVICE)
    if unreadable := [one.id for one in endpoints if services.endpoints.unreadable(one)]:
        sentence = f"ENCRYPTION_KEYS do not open the secret or headers of {_listed(unreadable)}: it gets nothing"
        remedy = "the keys that wrote them; or webhooks rotate-secret ID --keep-old 0, change ID --header ..."
        return [Finding("webhooks", Level.BAD, sentence, remedy)]
    off = [one for one in endpoints if not one.is_active and one.off_reason != "person"]
    if off:
        sentence = f"{len(off)} were switched off because they failed"
        return [Finding("webhooks", Level.WARNING, sentence, "payment-service webhooks list, then change ID --on")]
    return [Finding("webhooks", Level.OK, f"{len(endpoints)} endpoints")]


async def _seals(services: Services) -> list[Finding]:
    found = await checking.sealing_status(services.database)
    if found.is_replaced:
        sentence = "a seal is not the one that was verified"
        return [Finding("record", Level.BAD, sentence, "docs/audit.md: somebody may have changed the record")]
    if found.ahead_s > SKEW_S:
        sentence = f"its latest row lies {found.ahead_s / 60:.0f} min in the future: "
        sentence += "the database's clock was ahead, or is behind"
        return [Finding("record", Level.WARNING, sentence, "docs/deploy.md, 'Clocks'")]
    late_s = (datetime.now(UTC) - found.waits_since).total_seconds() if found.waits_since else 0
    if late_s > SEALS_LATE_S:
        sentence = f"rows wait for {late_s:.0f} s to be sealed"
        return [Finding("record", Level.WARNING, sentence, "a worker seals: does one run?")]
    sealed = f"sealed up to seal {found.sealed_seq}" if found.sealed_seq else "nothing to seal yet"
    return [Finding("record", Level.OK, sealed)]


async def _months(services: Services) -> list[Finding]:
    found = await months(services.database)
    sentence = f"{found.ahead} months of the record and of events lie ready"
    if found.are_enough:
        return [Finding("months", Level.OK, sentence)]
    if found.astray:
        sentence += f", and rows are in {' and '.join(found.astray)}, whose month nobody had made"
    return [Finding("months", Level.WARNING, sentence, "a worker makes them: its log says why not; docs/audit.md")]


def _listed(ids: Sequence[object]) -> str:
    return ", ".join(map(str, ids))
