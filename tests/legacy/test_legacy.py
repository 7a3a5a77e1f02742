"""Taking over from the old service: nothing lost, twice is the same as once, no routing guessed."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime
from typing import Any

import asyncpg
import pytest
import respx

from payment_service.access.service import FULL_ACCESS
from payment_service.errors import TokenOfAnotherBin
from payment_service.legacy import service
from payment_service.legacy.service import (
    Count,
    LegacyDatabaseError,
    LogReport,
    import_log,
    import_routing,
    legacy_database,
)
from payment_service.money import Money
from payment_service.refunds.service import RefundRequest
from payment_service.reports.adopting import Adoption, adopt_legacy
from payment_service.routing.importing import Planned
from payment_service.services import Services
from tests.support.asking import refunded
from tests.support.database import Server
from tests.support.processes import clean_environment, run
from tests.support.replies import status_reply
from tests.support.shops import ENCRYPTION_KEY, SHOPS, bin_with_checksum, device_token_of
from tests.support.waiting import until

OLD_SCHEMA = """
CREATE TABLE paymentconfig (
    id serial PRIMARY KEY, shop_id integer UNIQUE NOT NULL, organization_bin varchar NOT NULL, device_token varchar,
    is_active boolean DEFAULT true, provider varchar DEFAULT 'kaspi', created_at timestamp, updated_at timestamp);
CREATE TABLE paymentlog (
    id serial PRIMARY KEY, shop_id integer, organization_bin varchar, operation_type varchar, external_id varchar,
    amount integer, status varchar, error_message varchar, provider varchar DEFAULT 'kaspi', created_at timestamp);
"""
ERROR = f"for url 'https://proxy/?access_token=of-the-proxy&phone=77015211545' {'x' * 600}"
LINES = 110
"""More than are taken over at once: see ``_small_pages``."""
MADE = datetime(2025, 10, 22, 10)  # noqa: DTZ001 - as the old service wrote it


@pytest.fixture(autouse=True)
def _small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "PAGE", 100)


@pytest.fixture
async def old_url(server: Server, worker_id: str) -> str:
    """The old service's database: the seven shops, the test shops 8 to 15, and a log."""
    url = await server.make(f"old_{worker_id}", empty=True)
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(OLD_SCHEMA)
        test_shops = {shop_id: bin_with_checksum(f"99010{shop_id:02d}0000") for shop_id in range(8, 16)}
        await connection.executemany(
            "INSERT INTO paymentconfig (shop_id, organization_bin, device_token, is_active) VALUES ($1, $2, $3, $4)",
            [(shop, bin_, f"old-token-{shop:08d}", shop != 15) for shop, bin_ in (SHOPS | test_shops).items()],
        )
        await connection.executemany(
            "INSERT INTO paymentlog (shop_id, organization_bin, operation_type, external_id, amount, status,"
            " error_message, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            [
                (
                    121038 if n % 3 else None,
                    "920317450731" if n % 2 else None,
                    ("create", "status", "refund")[n % 3],
                    str(12737060000 + n) if n % 5 else None,
                    n * 100 if n % 7 else None,
                    "Wait",
                    f"for url 'https://proxy/?access_token=of-the-proxy&phone=77015211545' {'x' * 600}"
                    if n == 1
                    else None,
                    MADE,
                )
                for n in range(LINES)
            ],
        )
    finally:
        await connection.close()
    return url


@pytest.fixture
async def old(old_url: str) -> AsyncIterator[asyncpg.Connection]:
    async with legacy_database(old_url) as connection:
        yield connection


async def taken(
    old: asyncpg.Connection, services: Services, *, dry_run: bool = False, skip: tuple[int, ...] = ()
) -> tuple[list[Planned], list[str], LogReport]:
    shops, problems = await import_routing(old, services.routing, skip=skip, dry_run=dry_run)
    return shops, problems, await import_log(old, services.database, dry_run=dry_run, advance=lambda _done: None)


async def change_old(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def test_every_shop_and_every_line_is_here_afterwards(
    old: asyncpg.Connection, services: Services, sql: asyncpg.Connection
) -> None:
    shops, problems, log = await taken(old, services)
    assert (len(shops), problems, log.problems) == (15, [], [])
    assert log.there == log.after == Count(LINES, await sql.fetchval("SELECT sum(amount) FROM payment_log"))
    assert log.before == Count()
    columns = "shop_id, organization_bin, operation_type, external_id, amount, status, provider"
    there = await old.fetch(f"SELECT {columns} FROM paymentlog ORDER BY id")
    here = await sql.fetch(f"SELECT {columns} FROM payment_log WHERE source = 'legacy' ORDER BY id")
    assert [tuple(row) for row in here] == [tuple(row) for row in there]
    assert await sql.fetchval("SELECT count(*) FROM payment_log WHERE created_at = '2025-10-22T10:00:00Z'") == LINES
    kept = await sql.fetchval("SELECT error_message FROM payment_log WHERE error_message IS NOT NULL")
    assert kept.startswith("for url 'https://proxy/?access_token=[hidden]&phone=[hidden]' x")
    assert len(kept) == 500
    assert {row["shop_id"]: row["organization_bin"] for row in await sql.fetch("SELECT * FROM payment_config")} == {
        row["shop_id"]: row["organization_bin"] for row in await old.fetch("SELECT * FROM paymentconfig")
    }


async def test_tokens_are_taken_over_encrypted_and_inactive_shops_stay_inactive(
    old: asyncpg.Connection, services: Services, sql: asyncpg.Connection
) -> None:
    await import_routing(old, services.routing, skip=(), dry_run=False)
    configs = {config.row.shop_id: config for config in await services.routing.configs(FULL_ACCESS)}
    assert configs[121038].device_token == "old-token-00121038"
    assert [shop_id for shop_id, config in configs.items() if not config.row.is_active] == [15]
    assert await sql.fetchval("SELECT count(*) FROM device_token WHERE ciphertext LIKE '%old-token%'") == 0
    assert configs[121038].row.name == "Eileen flowers"


async def test_twice_is_the_same_as_once(old: asyncpg.Connection, services: Services, sql: asyncpg.Connection) -> None:
    await taken(old, services)
    everything = "SELECT (SELECT count(*) FROM payment_log), (SELECT count(*) FROM payment_config_history)"
    before = await sql.fetchrow(everything)
    shops, problems, log = await taken(old, services)
    assert {plan.action for plan in shops} == {"keep"}
    assert (problems, log.before, log.after) == ([], log.there, log.there)
    assert await sql.fetchrow(everything) == before


async def test_shop_that_was_renamed_here_is_kept_and_said_to_be(
    old: asyncpg.Connection, services: Services, sql: asyncpg.Connection
) -> None:
    await taken(old, services)
    await services.routing.update(FULL_ACCESS, 121038, {"name": "Eileen", "city": "Рудный"})
    shops, problems, _ = await taken(old, services)
    assert ({(plan.action, len(plan.changes)) for plan in shops}, problems) == ({("keep", 0)}, [])
    assert await sql.fetchval("SELECT name FROM payment_config WHERE shop_id = 121038") == "Eileen"


async def test_import_that_was_cut_goes_on_where_it_was(
    old: asyncpg.Connection, services: Services, sql: asyncpg.Connection
) -> None:
    def cut(_done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await import_log(old, services.database, dry_run=False, advance=cut)
    assert 0 < await sql.fetchval("SELECT count(*) FROM payment_log") < LINES
    log = await import_log(old, services.database, dry_run=False, advance=lambda _done: None)
    assert log.after == log.there


async def test_dry_run_changes_nothing(old: asyncpg.Connection, services: Services, sql: asyncpg.Connection) -> None:
    shops, _, log = await taken(old, services, dry_run=True)
    assert {plan.action for plan in shops} == {"create"}
    assert (log.there.lines, log.after.lines) == (LINES, 0)
    assert await sql.fetchval("SELECT count(*) FROM payment_config") == 0


async def test_shop_that_is_routed_differently_stops_it_until_it_is_left_out(
    old: asyncpg.Connection, services: Services, shops: dict[int, str], sql: asyncpg.Connection
) -> None:
    # The fixture has given the seven shops other device tokens than the old service knew.
    before = await sql.fetch("SELECT * FROM payment_config ORDER BY id")
    _, problems = await import_routing(old, services.routing, skip=(), dry_run=False)
    assert len(problems) == 7
    assert await sql.fetch("SELECT * FROM payment_config ORDER BY id") == before
    planned, problems = await import_routing(old, services.routing, skip=tuple(SHOPS), dry_run=False)
    assert ([plan.shop_id for plan in planned], problems) == ([*range(8, 16)], [])
    assert await sql.fetch("SELECT * FROM payment_config WHERE shop_id > 15 ORDER BY id") == before


async def test_shop_that_is_made_meanwhile_keeps_its_routing(
    old: asyncpg.Connection, services: Services, sql: asyncpg.Connection
) -> None:
    """Somebody adds shop 8 with another BIN than the old service had, while the import waits to compare."""

    async def waiting(count: int) -> None:
        async def wait() -> bool:
            query = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            return bool(await sql.fetchval(query) == count)

        await until(wait)

    async with sql.transaction():
        await sql.execute("SELECT one_at_a_time('routing')")
        importing = asyncio.create_task(import_routing(old, services.routing, skip=(), dry_run=False))
        await waiting(1)
        adding = asyncio.create_task(
            services.routing.create(FULL_ACCESS, 8, {"organization_bin": "891027350515"}, reason="by hand")
        )
        await waiting(2)
    await asyncio.gather(importing, adding, return_exceptions=True)
    history = await sql.fetch("SELECT version, reason FROM payment_config_history WHERE shop_id = 8")
    assert [tuple(row) for row in history] in ([(1, "by hand")], [(1, "taken over from the old service")])


async def test_dry_run_refuses_what_the_import_refuses(old_url: str, services: Services, shops: dict[int, str]) -> None:
    token = device_token_of(121038)  # another seller's here
    await change_old(old_url, f"UPDATE paymentconfig SET device_token = '{token}' WHERE shop_id = 8")
    async with legacy_database(old_url) as old:
        for dry_run in (True, False):
            with pytest.raises(TokenOfAnotherBin):
                await import_routing(old, services.routing, skip=tuple(SHOPS), dry_run=dry_run)


async def test_shop_that_was_renamed_here_keeps_its_name_and_one_that_was_switched_off_is_told(
    old_url: str, services: Services, sql: asyncpg.Connection
) -> None:
    spaces = "organization_bin = organization_bin || ' ', device_token = ' ' || device_token"
    await change_old(old_url, f"UPDATE paymentconfig SET {spaces} WHERE shop_id = 12")
    async with legacy_database(old_url) as old:
        assert (await import_routing(old, services.routing, skip=(), dry_run=False))[1] == []
        await services.routing.update(FULL_ACCESS, 121038, {"name": "Renamed"})
        rows = await sql.fetch("SELECT * FROM payment_config ORDER BY id")
        assert (await import_routing(old, services.routing, skip=(), dry_run=False))[1] == []
        assert await sql.fetch("SELECT * FROM payment_config ORDER BY id") == rows
        await services.routing.update(FULL_ACCESS, 9, {"is_active": False})
        _, [problem] = await import_routing(old, services.routing, skip=(), dry_run=False)
    assert problem.startswith("Shop 9 is routed differently here (is_active)")


async def test_two_imports_at_once_and_a_client_with_an_equal_report_id_leave_each_line_once(
    old_url: str, services: Services, sql: asyncpg.Connection
) -> None:
    await sql.execute(
        "INSERT INTO payment_log (operation_type, actor, source, report_id)"
        " VALUES ('create', 'key', 'client', 'legacy-7')"
    )

    async def take() -> None:
        async with legacy_database(old_url) as old:
            await import_log(old, services.database, dry_run=False, advance=lambda _done: None)

    await asyncio.gather(take(), take())
    assert await sql.fetchval("SELECT count(*) FROM payment_log WHERE source = 'legacy'") == LINES


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("organization_bin = '123456789012'", "checksum"),
        ("organization_bin = ''", "12 digits"),
        ("device_token = 'short'", "8 to 50"),
        ("provider = 'halyk'", "is one of kaspi"),
    ],
)
async def test_shop_that_cannot_be_routed_is_named_and_nothing_is_taken_over(
    old_url: str, services: Services, sql: asyncpg.Connection, wrong: str, told: str
) -> None:
    await change_old(old_url, f"UPDATE paymentconfig SET {wrong} WHERE shop_id = 12")
    async with legacy_database(old_url) as old:
        _, [problem] = await import_routing(old, services.routing, skip=(), dry_run=False)
    assert problem.startswith("Shop 12: ")
    assert told in problem
    assert await sql.fetchval("SELECT count(*) FROM payment_config") == 0


@pytest.mark.thorough
async def test_line_that_cannot_be_kept_as_it_is_is_named(old_url: str, services: Services) -> None:
    await change_old(old_url, "UPDATE paymentlog SET amount = -1 WHERE id = 5; UPDATE paymentlog SET amount = NULL")
    await change_old(old_url, "UPDATE paymentlog SET amount = -1 WHERE id = 5")
    await change_old(old_url, "UPDATE paymentlog SET operation_type = NULL WHERE id = 6")
    async with legacy_database(old_url) as old:
        log = await import_log(old, services.database, dry_run=False, advance=lambda _done: None)
    assert log.problems == ["Line 5: its amount is below zero.", "Line 6: it has no operation_type."]
    assert log.after.lines == LINES - 2


async def test_database_that_is_not_the_old_one_is_told(
    server: Server, worker_id: str, services: Services, database_url: str
) -> None:
    for url, sentence in (
        (await server.make(f"old_{worker_id}", empty=True), "no table paymentconfig"),
        (database_url, "this service's own"),
        ("postgresql://127.0.0.1:1/none", "cannot be reached"),
    ):
        with pytest.raises(LegacyDatabaseError, match=sentence):
            async with legacy_database(url):
                pass


async def test_user_who_may_not_read_the_old_database_is_told_of_which(old_url: str) -> None:
    with pytest.raises(LegacyDatabaseError, match="LEGACY_DATABASE_URL may not read paymentconfig: GRANT SELECT"):
        async with legacy_database(f"{old_url}?options=-crole%3Dpg_monitor"):
            pass


@pytest.mark.thorough
async def test_command_counts_before_and_after(
    old_url: str, database_url: str, services: Services, tmp_path: Any
) -> None:
    environment = clean_environment(
        tmp_path,
        DATABASE_URL=database_url,
        PRODUCTION_API_URL="http://127.0.0.1:1",
        KASPI_ACCESS_TOKEN="none",
        ENCRYPTION_KEYS=ENCRYPTION_KEY,
        LEGACY_DATABASE_URL=old_url,
    )
    done = run(("import-legacy", "--json"), environment=environment, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert len(told["shops"]) == 15
    assert told["log"]["in_the_old_log"] == told["log"]["here_now"]
    assert told["log"]["here_before"]["lines"] == 0
    assert "old-token" not in done.stdout + done.stderr


# --- payments of the old service


async def adopted(old_url: str, services: Services, *, days: float = 90) -> Adoption:
    async with legacy_database(old_url) as old:
        await import_log(old, services.database, dry_run=False, advance=lambda _done: None)
    return await adopt_legacy(services.reports, FULL_ACCESS, days=days)


async def old_lines(url: str, *lines: str) -> None:
    """Lines of the old log: shop, BIN, operation, external id, amount, days ago."""
    columns = "shop_id, organization_bin, operation_type, external_id, amount, created_at"
    moments = ", ".join(
        f"({line.rpartition(',')[0]}, now() - interval '{line.rpartition(',')[2]} days')" for line in lines
    )
    await change_old(url, f"DELETE FROM paymentlog; INSERT INTO paymentlog ({columns}) VALUES {moments}")


async def test_payments_of_the_old_service_are_followed_and_refundable_on_their_own_account(
    old_url: str, services: Services, shops: dict[int, str], sql: asyncpg.Connection, wire: respx.MockRouter
) -> None:
    await services.routing.update(FULL_ACCESS, 121038, {"organization_bin": "991011000048", "device_token": None})
    await old_lines(
        old_url,
        "121038, '920317450731', 'create', '501', 17500, 1",
        "121038, '920317450731', 'status', '501', NULL, 1",
        "75509, NULL, 'create-link', '502', 200, 89",
        "75509, '860214400107', 'create', '503', 200, 91",
        "75509, '860214400107', 'create', NULL, 200, 1",
    )
    adoption = await adopted(old_url, services)
    assert adoption == Adoption(adopted=2, without_account=1)
    rows = await sql.fetch(
        "SELECT external_id, shop_id, organization_bin, amount, state, source, next_check_at <= now() AS due,"
        " device_token_id IS NOT NULL AS has_token FROM payment ORDER BY external_id"
    )
    assert [tuple(row) for row in rows] == [
        ("501", 121038, "920317450731", 17500, "unknown", "client", True, True),
        ("502", 75509, None, 200, "unknown", "client", True, False),
    ]
    assert await sql.fetchval("SELECT count(*) FROM payment_log WHERE operation_type = 'adopt'") == 2

    asked = wire.get("/status/").mock(return_value=status_reply("501", "Processed"))
    payment = await services.refunds.payment_of(FULL_ACCESS, 121038, "kaspi", "501")
    assert (asked.call_count, payment.state) == (1, "paid")
    paid_back = wire.get("/refund/").mock(return_value=refunded())
    caller = replace(FULL_ACCESS, name="tests")
    await services.refunds.refund(RefundRequest(caller=caller, payment=payment, amount=Money(10000)))
    assert paid_back.calls.last.request.url.params["organizationBin"] == "920317450731"


async def test_adopting_twice_is_the_same_as_once(old_url: str, services: Services, sql: asyncpg.Connection) -> None:
    await old_lines(old_url, "121038, '920317450731', 'create', '501', 17500, 1", "75509, NULL, 'create', '501', 1, 0")
    first = await adopted(old_url, services)
    assert (first.adopted, first.known) == (1, 1)
    assert first.problems == ["Payment 501 is of shop 75509 there, and of 121038 here."]
    again = await adopted(old_url, services)
    assert (again.adopted, again.known) == (0, 2)
    assert await sql.fetchval("SELECT count(*) FROM payment") == 1
    assert await sql.fetchval("SELECT count(*) FROM payment_log WHERE operation_type = 'adopt'") == 1
