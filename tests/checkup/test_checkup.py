"""What ``doctor`` finds, one thing wrong at a time."""

import asyncio
import re
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import asyncpg
import httpx
import pytest
import respx

from payment_service.access.service import FULL_ACCESS
from payment_service.checkup.service import NO_PAYMENT, Level, _of_disk, _of_guarantees, _of_host, run_checks
from payment_service.identifiers import new_id
from payment_service.notifications.bindings import BindingRequest
from payment_service.observability import metrics
from payment_service.observability.metrics import CERTIFICATE_END, HOST_CLOCK_AHEAD
from payment_service.postgres.guarantees import Guarantees
from payment_service.programs import StartError
from payment_service.programs.start import check_database
from payment_service.scheduling.ticks import tick
from payment_service.services import Services, build
from payment_service.settings import Settings
from payment_service.worker.service import worker_over
from tests.support.alarms import alarms
from tests.support.asking import SHOP, age, ask, taking
from tests.support.books import spoil_token
from tests.support.database import Server, without_laws
from tests.support.replies import failure, status_reply
from tests.support.shops import SHOPS
from tests.support.waiting import until

pytestmark = pytest.mark.usefixtures("shops")


async def found(services: Services) -> dict[tuple[str, Level], str]:
    """What is not well, with the sentence; but for the PostgreSQL of the tests, which runs without fsync."""
    findings = [finding async for finding in run_checks(services)]
    assert any(finding.what == "database" and "fsync" in finding.sentence for finding in findings)
    assert all(finding.remedy for finding in findings if finding.level is not Level.OK)
    return {
        (finding.what, finding.level): finding.sentence
        for finding in findings
        if finding.level is not Level.OK and finding.what != "disk" and "fsync" not in finding.sentence
    }


@pytest.fixture
async def well(services: Services, wire: respx.MockRouter, sql: asyncpg.Connection) -> Services:
    """Everything as it should be."""
    await sql.execute("UPDATE event SET passed_on_at = now()")  # those of the routing of the shops
    wire.get("/status/", params={"externalId": NO_PAYMENT}).mock(return_value=failure(-1601))
    await services.access.create("shop", ["payments:write"], shops=frozenset({SHOP}))
    await tick(services.database, new_id(), host="here", version="1")
    return services


async def test_nothing_is_wrong(well: Services) -> None:
    assert await found(well) == {}


async def test_work_that_is_late_and_tasks_that_wait(
    well: Services, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    taking(wire)
    await well.payments.create(ask(1))
    wire.get("/create/").mock(return_value=httpx.Response(500))
    await well.payments.create(ask(2))
    async with without_laws(sql):
        await sql.execute("UPDATE payment SET next_check_at = now() - interval '100 s' WHERE state = 'pending'")
        await sql.execute("UPDATE payment SET moved_at = now() - interval '2 hours' WHERE state = 'unknown'")
    await late_message(well, sql)
    said = {of: re.sub(r"(\d+)\d s$", r"\g<1>x s", sentence) for of, sentence in (await found(well)).items()}
    assert said == {
        ("readings", Level.WARNING): "the oldest waits for 10x s",
        ("messages", Level.BAD): "the oldest waits for 720x s",
        ("tasks", Level.BAD): "1 wait for people, the oldest for 120 min",
    }


async def late_message(services: Services, sql: asyncpg.Connection) -> None:
    """Let a chat wait for a message for two hours, and one that is disabled for longer."""
    await services.bindings.add(
        FULL_ACCESS, BindingRequest(address="-100", channel="telegram", shop_id=SHOP, events=["payment.paid"])
    )
    await sql.execute("""
        INSERT INTO notify_message (event_id, chat_id, language, state, created_at)
        SELECT (SELECT id FROM event LIMIT 1), id, 'ru', 'waiting', now() - interval '2 hours' FROM notify_chat
    """)


async def test_what_is_open_and_a_sender_that_is_lost(
    well: Services, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    taking(wire)
    await well.payments.create(ask(1))
    told = {one.what: one async for one in run_checks(well)}
    assert (told["payments"].level, told["payments"].sentence) == (Level.OK, "1 pending, the oldest for 0 min")
    assert told["refunds"].sentence == "none is open"
    async with without_laws(sql):
        await sql.execute("UPDATE payment SET state = 'sending', created_at = now() - interval '7 min'")
    assert (await found(well))["payments", Level.BAD] == "1 sending, the oldest for 7 min"
    async with without_laws(sql):
        await sql.execute("UPDATE payment SET created_at = now() + interval '2 hours'")
        await sql.execute("UPDATE payment_log SET created_at = now() + interval '2 hours' WHERE payment_id IS NOT NULL")
    ahead = await found(well)
    assert ahead["payments", Level.BAD] == "1 sending, the oldest for 120 min"
    assert ahead["record", Level.WARNING].startswith("its latest row lies 120 min in the future")


async def test_sending_that_is_held(well: Services) -> None:
    await well.holding.hold("a restore is under way")
    assert await found(well) == {("sending", Level.BAD): "payments and refunds are held by a person"}


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("session_replication_role = replica", "session_replication_role is replica"),
        ("TimeZone = 'Asia/Almaty'", None),
        ("default_transaction_isolation = 'serializable'", None),
        ("synchronous_commit = off", None),
    ],
)
async def test_settings_of_the_role_that_this_service_does_or_does_not_make_itself(
    well: Services, sql: asyncpg.Connection, setting: str, sentence: str | None
) -> None:
    of_role = f"ALTER ROLE current_user IN DATABASE {await sql.fetchval('SELECT current_database()')}"
    await sql.execute(f"{of_role} SET {setting}")
    try:
        if sentence is None:
            assert await found(well) == {}
        else:
            [bad] = [one.sentence async for one in run_checks(well) if one.what == "database"]
            assert bad.startswith(sentence)
            with pytest.raises(StartError, match=sentence):
                await check_database(well.settings)
    finally:
        await sql.execute(f"{of_role} RESET ALL")


async def test_triggers_that_are_switched_off(well: Services, sql: asyncpg.Connection) -> None:
    worker, before = worker_over(well), alarms("laws_off")
    async with sql.transaction():  # whose lock lasts until it is undone
        await sql.execute("ALTER TABLE sending_hold DISABLE TRIGGER ALL")
    try:
        assert await found(well) == {("laws", Level.BAD): "triggers are switched off on sending_hold"}
        with pytest.raises(StartError, match="does not enforce its laws: triggers are switched off on sending_hold"):
            await check_database(well.settings)
        for _ in range(2):
            await worker._look_at_laws()
        assert (metrics.LAWS_OFF._value.get(), alarms("laws_off")) == (1, before + 1)
    finally:
        await sql.execute("ALTER TABLE sending_hold ENABLE TRIGGER ALL")
    await worker._look_at_laws()
    assert metrics.LAWS_OFF._value.get() == 0


WAITS = "SELECT EXISTS (SELECT FROM pg_locks WHERE pid = $1 AND NOT granted)"


async def test_table_that_somebody_holds_and_rows_that_others_wait_for(
    well: Services, sql: asyncpg.Connection, database_url: str
) -> None:
    pid = await sql.fetchval("SELECT pg_backend_pid()")
    async with sql.transaction():
        await sql.execute("LOCK TABLE worker_tick IN SHARE MODE")
        assert await found(well) == {
            ("locks", Level.BAD): f"statements wait: session {pid} of postgres holds worker_tick (ShareLock)"
        }
    async with sql.transaction():
        await sql.execute("SELECT FROM payment_config FOR UPDATE")
        waiting = await asyncpg.connect(database_url)
        task = asyncio.create_task(waiting.execute("SELECT FROM payment_config FOR UPDATE"))
        await until(lambda: sql.fetchval(WAITS, waiting.get_server_pid()))
        said = (await found(well))["locks", Level.BAD]
    await task
    await waiting.close()
    assert said == f"statements wait: session {pid} of postgres holds rows that others wait for"


async def test_who_waits_in_another_database_is_not_told(well: Services, server: Server) -> None:
    holding, waiting = await asyncpg.connect(server.url), await asyncpg.connect(server.url)
    table = f"held_by_{holding.get_server_pid()}"
    await holding.execute(f"CREATE TABLE {table} AS SELECT 1 AS one")
    async with holding.transaction():
        await holding.execute(f"SELECT FROM {table} FOR UPDATE")
        task = asyncio.create_task(waiting.execute(f"SELECT FROM {table} FOR UPDATE"))
        await until(lambda: holding.fetchval(WAITS, waiting.get_server_pid()))
        assert await found(well) == {}
    await task
    await holding.execute(f"DROP TABLE {table}")
    for connection in (holding, waiting):
        await connection.close()


def promised(**changes: Any) -> Guarantees:
    well = Guarantees(
        None, [], {}, (), wal_level="replica", vacuums=True, unfrozen=2 * 10**8, size=10**9, data_directory=None
    )
    return replace(well, **changes)


@pytest.mark.parametrize(
    ("changes", "level", "sentence"),
    [
        (
            {"wrong_settings": {"synchronous_commit": ("off", "on")}},
            Level.BAD,
            "has synchronous_commit=off and needs on",
        ),
        ({"forgets_by": ("full_page_writes",)}, Level.BAD, "runs with full_page_writes=off and forgets payments"),
        (
            {"added": ["rule r on payment"]},
            Level.WARNING,
            "not of this service, and may drop, change or refuse what is written",
        ),
        ({"vacuums": False}, Level.WARNING, "autovacuum is off"),
        ({"unfrozen": 1_200_000_000}, Level.WARNING, "1,200 million transactions are not frozen"),
        ({"unfrozen": 1_700_000_000}, Level.BAD, "1,700 million transactions are not frozen"),
        ({"wal_level": "minimal"}, Level.WARNING, "wal_level is minimal"),
    ],
)
def test_what_postgresql_does_not_promise(changes: dict[str, Any], level: Level, sentence: str) -> None:
    [laws] = _of_guarantees(promised())
    assert laws.level is Level.OK
    [_, bad] = _of_guarantees(promised(**changes))
    assert (bad.what, bad.level) == ("laws" if "added" in changes else "database", level)
    assert sentence in bad.sentence
    assert bad.remedy


@pytest.mark.parametrize(("free", "level"), [(500, Level.OK), (199, Level.WARNING), (49, Level.BAD)])
def test_disk_that_fills_up(free: int, level: Level, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _path: SimpleNamespace(total=1000, free=free))
    here = promised(data_directory=str(tmp_path))
    assert _of_disk(here, "postgresql://127.0.0.1/payments").level is level
    elsewhere = _of_disk(here, "postgresql://db.example.kz/payments")
    assert (elsewhere.level, elsewhere.sentence) == (
        Level.OK,
        "the database takes 1.0 GB; how full its disk is cannot be seen from here",
    )


@pytest.mark.parametrize(("ahead_s", "level"), [(-29, Level.OK), (31, Level.WARNING)])
def test_clock_and_certificate_of_the_proxy(ahead_s: float, level: Level, monkeypatch: pytest.MonkeyPatch) -> None:
    ends = time.time() + 86400 * (15 if level is Level.OK else 3)
    said = {HOST_CLOCK_AHEAD: {("proxy.example.kz",): ahead_s}, CERTIFICATE_END: {("proxy.example.kz",): ends}}
    monkeypatch.setattr("payment_service.checkup.service.values_of", said.__getitem__)
    [clock, certificate] = _of_host("proxy.example.kz")
    assert (clock.what, clock.level, certificate.what, certificate.level) == (
        "proxy clock",
        level,
        "certificate",
        level,
    )
    assert clock.sentence.startswith("the clock of proxy.example.kz is ")


async def test_months_that_nobody_makes(well: Services, sql: asyncpg.Connection) -> None:
    astray = "INSERT INTO payment_log (operation_type, actor, source, created_at) VALUES ('t', 't', 'client', $1)"
    await sql.execute(astray, datetime(2999, 1, 1, tzinfo=UTC))
    findings = await found(well)
    assert set(findings) == {("months", Level.WARNING), ("record", Level.WARNING)}  # it lies in the future, too
    assert findings["months", Level.WARNING].endswith(
        "months of the record and of events lie ready, and rows are in payment_log_default, whose month nobody had made"
    )


async def test_workers_that_are_gone(well: Services, sql: asyncpg.Connection) -> None:
    await sql.execute("UPDATE worker_tick SET ticked_at = now() - interval '10 min'")
    assert await found(well) == {("workers", Level.BAD): "none runs: no payment is polled, no event or message is sent"}


@pytest.mark.parametrize(
    ("reply", "level", "sentence"),
    [
        (httpx.Response(403), Level.BAD, "the proxy refuses this service"),
        (httpx.Response(502), Level.BAD, "the proxy cannot be asked: http_502"),
        (httpx.ConnectError("refused"), Level.BAD, "the proxy cannot be asked: connect_failed"),
        (status_reply(NO_PAYMENT, "Processed"), Level.WARNING, "the proxy answers, with the status Processed"),
    ],
)
async def test_proxy_that_does_not_answer_as_it_should(
    well: Services, wire: respx.MockRouter, reply: Any, level: Level, sentence: str
) -> None:
    route = wire.get("/status/", params={"externalId": NO_PAYMENT})
    route.mock(side_effect=reply) if isinstance(reply, Exception) else route.mock(return_value=reply)
    [(of, said)] = (await found(well)).items()
    assert of == ("kaspi", level)
    assert said.startswith(sentence)


async def test_shops_without_token_or_with_one_bin(well: Services, sql: asyncpg.Connection) -> None:
    async with without_laws(sql):
        await sql.execute(
            "UPDATE payment_config SET device_token_id = NULL, device_token = NULL WHERE shop_id = $1", SHOP
        )
        await sql.execute("UPDATE payment_config SET organization_bin = $1", SHOPS[SHOP])
    findings = [one.sentence async for one in run_checks(well) if one.what == "shops"]
    assert findings[1].startswith("no device token: ")
    assert "share BIN" in findings[2]


async def test_shop_whose_device_token_cannot_be_decrypted(well: Services, sql: asyncpg.Connection) -> None:
    await spoil_token(sql, SHOP)
    sentence = f"ENCRYPTION_KEYS do not open the device token of shop {SHOP}: it takes no payments"
    assert await found(well) == {("secrets", Level.BAD): sentence}


async def test_keys_that_end_soon_and_nobody_who_can_call(well: Services, sql: asyncpg.Connection) -> None:
    for after, level, sentence in (
        ("3 days", Level.WARNING, "shop end within 14 days"),
        ("-1 day", Level.BAD, "nobody can call"),
    ):
        async with without_laws(sql):
            await sql.execute("UPDATE api_key SET expires_at = now() + $1::text::interval", after)
        assert await found(well) == {("keys", level): sentence}


async def test_database_that_is_not_there_is_told_and_the_proxy_is_asked_all_the_same(
    settings: Settings, wire: respx.MockRouter
) -> None:
    wire.get("/status/").mock(return_value=failure(-1601))
    away = settings.model_copy(update={"database_url": type(settings.database_url)("postgresql://127.0.0.1:1/none")})
    services = build(away)
    findings = {one.what: one async for one in run_checks(services)}
    await services.close()
    assert "cannot be reached" in findings["database"].sentence
    assert findings["kaspi"].level is Level.OK
    of_host = {"proxy clock", "certificate"}  # known only where a test before this one had the host answer
    assert set(findings) - of_host == {"settings", "database", "kaspi"}


async def test_no_finding_holds_a_secret_or_a_buyer(
    well: Services, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    taking(wire)
    await well.payments.create(ask(phone="77015219017"))
    await age(sql, 100_000)
    said = " ".join([f"{one.sentence} {one.remedy}" async for one in run_checks(well)])
    secrets = [
        "77015219017",
        "9017",
        "test-access-token",
        *[key.get_secret_value() for key in well.settings.encryption_keys],
    ]
    assert not [secret for secret in secrets if secret in said]
