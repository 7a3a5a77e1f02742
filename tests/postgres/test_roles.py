"""The roles of docs/deploy.md: the service does everything as the lesser one, and attacks as that role fail."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import httpx
import pytest
import respx
from structlog.testing import capture_logs

from payment_service.access.people import Role
from payment_service.access.service import FULL_ACCESS, Scope
from payment_service.audit import checking
from payment_service.audit.comparing import compare
from payment_service.audit.sealing import AuditSeals
from payment_service.money import Money
from payment_service.notifications.bindings import BindingRequest
from payment_service.observability.context import Origin, origin
from payment_service.payments.lifecycle import State
from payment_service.payments.settling import Settlement
from payment_service.postgres import migrating, schema
from payment_service.postgres.rights import Right, lacking, rights
from payment_service.postgres.visibility import ALL_SHOPS
from payment_service.programs import StartError
from payment_service.programs.start import check_database
from payment_service.refunds.service import RefundRequest
from payment_service.reports.service import Report
from payment_service.services import Services, build
from payment_service.settings import Settings
from payment_service.worker.service import worker_over
from tests.support.asking import SHOP, TESTS, ask, paid, refunded
from tests.support.books import written_down
from tests.support.database import Server
from tests.support.replies import accepted, status_reply
from tests.support.shops import SHOPS, device_token_of
from tests.support.waiting import until

DEPLOY = Path(__file__).parents[2] / "docs" / "deploy.md"


def sql_of_the_docs() -> list[str]:
    section = DEPLOY.read_text("utf-8").split("### Roles of the database", 1)[1].split("\n### ", 1)[0]
    return re.findall(r"```sql\n(.*?)```", section, re.DOTALL)


class Roles:
    """A database of its own with both roles, whose names are this worker's: roles belong to the whole server."""

    def __init__(self, server: Server, worker_id: str) -> None:
        self.server = server
        self.database = f"roles_{worker_id}"
        self.names = {name: f"{name}_{worker_id}" for name in ("payment_owner", "payment_service")}

    def url(self, role: str) -> str:
        parts = urlsplit(self.server.of(self.database))
        password = "OWNER_PASSWORD" if role == "payment_owner" else "SERVICE_PASSWORD"
        host = parts.netloc.rpartition("@")[2]
        return parts._replace(netloc=f"{self.names[role]}:{password}@{host}").geturl()

    def of_here(self, statements: str) -> str:
        for name, here in self.names.items():
            statements = re.sub(rf"\b{name}\b", here, statements)
        return statements.replace("DATABASE payments", f"DATABASE {self.database}")


async def run(url: str, statements: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statements)
    finally:
        await connection.close()


@pytest.fixture(scope="module")
async def roles(server: Server, worker_id: str) -> AsyncIterator[Roles]:
    roles = Roles(server, worker_id)
    at_first, after_migrating = map(roles.of_here, sql_of_the_docs())
    superuser = await server.make(roles.database, empty=True)
    await run(superuser, at_first)
    for setting in ("standard_conforming_strings = off", "quote_all_identifiers = on"):
        await run(superuser, f"ALTER DATABASE {roles.database} SET {setting}")
    await asyncio.to_thread(migrating.migrate, roles.url("payment_owner"))
    await run(superuser, f"ALTER DATABASE {roles.database} RESET ALL")
    for _twice in range(2):
        await run(roles.url("payment_owner"), after_migrating)
    yield roles
    await run(server.url, f"DROP DATABASE {roles.database} WITH (FORCE)")
    await run(server.url, "".join(f"DROP ROLE {name};" for name in roles.names.values()))


@pytest.fixture(scope="module")
async def own_house(roles: Roles, database_url: str) -> AsyncIterator[Services]:
    """The service over that database, as the lesser role."""
    services = build(
        Settings(
            _env_file=None,
            database_url=roles.url("payment_service"),
            production_api_url="http://127.0.0.1:1",
            kaspi_access_token="test-access-token",
            encryption_keys="dGhpcyBpcyBhIHRlc3Qga2V5LCBub3QgYSBzZWNyZXQ=",
            late_effect_s=0,
            follow_first_s=0.1,
            webhooks_stay_here=True,
        )
    )
    yield services
    await services.close()


async def _person_comes_and_goes(services: Services) -> None:
    person = await services.people.add("aigul@example.kz", "A", Role.FLORIST, frozenset({SHOP}))
    await services.people.set_password(str(await services.people.link(person.id)), "peonies and roses")
    session = await services.sessions.sign_in(person.email, "peonies and roses", address="203.0.113.7")
    signed_in = await services.sessions.of(session)
    await services.sessions.prove(signed_in, "peonies and roses", address="203.0.113.7")
    await services.sessions.sign_out(signed_in)
    await services.people.change(person.id, role=Role.OPERATOR)
    await services.people.disable(person.id)


async def _two_people_change_a_route(services: Services) -> None:
    one, two = [await services.people.add(f"{name}@b.kz", name, Role.ADMIN, ALL_SHOPS) for name in ("one", "two")]
    version = (await services.routing.route_of(FULL_ACCESS, SHOP)).version
    wanted = {"organization_bin": "891027350515", "device_token": "11111111-2222-4333-8444-555555555555"}
    change = await services.route_changes.propose(
        FULL_ACCESS, one.id, SHOP, wanted, version=version, reason="The seller wrote"
    )
    await services.route_changes.confirm(FULL_ACCESS, two.id, change.id)


@pytest.mark.usefixtures("quick_hashes")
async def test_service_does_everything_as_the_lesser_role(
    own_house: Services, roles: Roles, wire: respx.MockRouter
) -> None:
    services = own_house
    worker = worker_over(services)
    working = asyncio.create_task(worker.run())
    listening = asyncio.create_task(services.subscriptions.run())
    try:
        await _shop_with_everything(services)
        await services.routing.update(FULL_ACCESS, SHOP, {"city": "Алматы"}, reason="moved")
        key = await services.access.create("shop", [Scope.ADMIN], shops=frozenset({SHOP}))
        await services.access.revoke(key.row.id)
        await _person_comes_and_goes(services)
        await _two_people_change_a_route(services)
        endpoint = (await services.endpoints.add(FULL_ACCESS, {"url": "http://127.0.0.1:1025/hook"})).endpoint
        await services.endpoints.rotate_secret(FULL_ACCESS, endpoint.id, keep_old_s=60)
        await services.endpoints.change(FULL_ACCESS, endpoint.id, {"is_active": False})

        payment = await paid(services, wire, ask(idempotency_key="key-of-roles"))
        wire.get("/refund/").mock(return_value=refunded())
        refund = await services.refunds.refund(RefundRequest(caller=TESTS, payment=payment, amount=Money(500)))
        assert refund.refund.state == "succeeded"

        wire.get("/create/").mock(side_effect=[httpx.Response(500)])
        lost = (await services.payments.create(ask(7))).payment
        wire.get("/status/", params={"externalId": "777"}).mock(return_value=status_reply(777, "Processed"))
        found = Settlement(state=State.PAID, reason="Seen in the cabinet", external_id="777")
        await services.settling.settle(FULL_ACCESS, lost.id, found)
        token = origin.set(Origin("another"))
        assert (await services.settling.undo(FULL_ACCESS, lost.id, "It was another one")).state == "unknown"
        origin.reset(token)
        await services.reports.write(FULL_ACCESS, Report(shop_id=SHOP, operation_type="create", external_id="888"))
        wire.get("/status/", params={"externalId": "888"}).mock(return_value=status_reply(888, "Processed"))

        wire.get("/create/").mock(side_effect=None, return_value=accepted(999))
        followed = (await services.payments.create(ask(8))).payment
        wire.get("/status/", params={"externalId": "999"}).mock(return_value=status_reply(999, "Processed"))

        async def is_paid() -> bool:
            return (await services.reading.get(FULL_ACCESS, followed.id)).state == "paid"

        await until(is_paid, within_s=20)
        await services.rotate_keys()
        await services.polling.mark_lost_unknown()
        await services.refund_settling.mark_lost_unknown()
        assert await AuditSeals(services.database).seal()
        await checking.record_check(services.database, await checking.check_database(services.database))
        assert (await compare(services.database)).problem is None
        assert await schema.current(services.database) == schema.head()
    finally:
        worker.stop()
        await working
        listening.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await listening


def test_rights_that_are_looked_for_are_those_that_the_document_grants() -> None:
    granted = set()
    grants = re.findall(r"GRANT ((?:INSERT|UPDATE)[^;]*?)\s+ON ([^;]*?)\s+TO", sql_of_the_docs()[1])
    for what, tables in grants:
        for privilege, columns in re.findall(r"([A-Z]+)(?: \(([^)]*)\))?", what):
            of = [column.strip() for column in columns.split(",")] if columns else [None]
            granted |= {Right(privilege, table.strip(), column) for table in tables.split(",") for column in of}
    assert set(rights()) == granted


@pytest.mark.parametrize(
    ("statement", "lacks"),
    [
        ("REVOKE INSERT ON event FROM payment_service", ["INSERT on event"]),
        ("REVOKE UPDATE (ended_at) ON person_session FROM payment_service", ["UPDATE on person_session (ended_at)"]),
        ("REVOKE SELECT ON route_rule FROM payment_service", ["SELECT on route_rule"]),
        ("REVOKE USAGE ON SEQUENCE person_id_seq FROM payment_service", ["USAGE on person_id_seq"]),
        ("REVOKE EXECUTE ON FUNCTION make_months(text, integer) FROM payment_service", ["EXECUTE on make_months"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
async def test_nothing_starts_without_a_right_that_a_payment_would_miss_after_it_was_sent(
    own_house: Services, roles: Roles, statement: str, lacks: list[str]
) -> None:
    owner = roles.url("payment_owner")
    await run(owner, roles.of_here(statement))
    try:
        async with own_house.database.reading() as session:
            assert await lacking(session) == lacks
        with pytest.raises(StartError, match=f"lacks {re.escape(lacks[0])}: as the owner"):
            await check_database(own_house.settings)
    finally:
        await run(owner, roles.of_here(sql_of_the_docs()[1]))
    async with own_house.database.reading() as session:
        assert await lacking(session) == []


async def test_outcome_that_a_missing_right_refuses_is_written_when_the_right_is_back(
    own_house: Services, roles: Roles, wire: respx.MockRouter
) -> None:
    await _shop_with_everything(own_house)
    await own_house.holding.release("tests")
    wire.get("/create/").mock(return_value=accepted(12800627799))
    owner = roles.url("payment_owner")
    await run(owner, roles.of_here("REVOKE INSERT ON event FROM payment_service"))
    with capture_logs() as logs:
        under_way = own_house.inflight.begin(own_house.payments.create(ask(order_id="a missing right")))
        await until(lambda: asyncio.sleep(0, any(line["event"] == "not written yet" for line in logs)))
    await run(owner, roles.of_here(sql_of_the_docs()[1]))
    assert (await under_way).payment.state == "pending"


DENIED = [
    "ALTER TABLE payment_log DISABLE TRIGGER ALL",
    "ALTER TABLE payment_config DISABLE TRIGGER payment_config_is_audited",
    "DROP TRIGGER payment_log_insert_only ON payment_log",
    "SET session_replication_role = replica",
    "CREATE OR REPLACE FUNCTION break_law(law text, sentence text) RETURNS void LANGUAGE sql AS ''",
    "ALTER FUNCTION change_is_audited() OWNER TO CURRENT_USER",
    "CREATE TEMP TABLE payment_log (id int)",
    "CREATE TABLE payment_log_2 (id int)",
    "CREATE SCHEMA mine",
    "UPDATE payment_log SET actor = 'somebody'",
    "DELETE FROM payment_log",
    "TRUNCATE payment_log",
    "INSERT INTO payment_log (id, operation_type, actor, source) OVERRIDING SYSTEM VALUE VALUES (1, '', '', 'client')",
    "INSERT INTO payment_log_first (operation_type, actor, source) VALUES ('x', 'x', 'client')",
    "UPDATE payment_log_first SET actor = 'somebody'",
    "DELETE FROM payment_log_default",
    "TRUNCATE payment_log_first",
    "ALTER TABLE payment_log DETACH PARTITION payment_log_first",
    "DROP TABLE payment_log_default",
    "SELECT retire_log_partition('payment_log_first', NULL, 'eve')",
    "SELECT make_partition('event', 'mine', 'event')",
    "SELECT retire_event_partition('event_first', 'eve')",
    "UPDATE event_first SET passed_on_at = NULL",
    "INSERT INTO event_delivery_first (id) VALUES (gen_random_uuid())",
    "SELECT give_default_its_time('event', now(), now())",
    "INSERT INTO audit_retired (partition, until, row_count, kept_ids, actor) VALUES ('x', now(), 0, '{}', 'eve')",
    "INSERT INTO report_taken (log_id, report_id) VALUES (1, 'r')",
    "UPDATE audit_seal SET hash = repeat('0', 64)",
    "DELETE FROM audit_seal",
    "UPDATE payment_config_history SET organization_bin = '891027350515'",
    "DELETE FROM payment_config",
    "DELETE FROM api_key",
    "DELETE FROM person",
    "UPDATE person SET email = 'eve@example.kz'",
    "UPDATE person_session SET expires_at = expires_at + interval '1 day'",
    "UPDATE person_link SET person_id = person_id",
    "INSERT INTO route_rule (id, needs_two) VALUES (1, false)",
    "UPDATE route_rule SET needs_two = false",
    "UPDATE route_change SET organization_bin = '891027350515'",
    "UPDATE audit_check SET last_seq = last_seq + 1",
    "UPDATE api_key SET digest = repeat('f', 64)",
    "UPDATE api_key SET scopes = '{admin}'",
    "UPDATE device_token SET masked = 'x'",
    "UPDATE event SET data = '{}'",
    "DELETE FROM payment",
    "DELETE FROM delivery_try",
    "UPDATE alembic_version SET version_num = '0001'",
    "DROP TABLE payment",
    "SET ROLE payment_owner",
    "REASSIGN OWNED BY payment_owner TO CURRENT_USER",
    "BEGIN; LOCK TABLE payment_log IN ACCESS EXCLUSIVE MODE",
]


@pytest.mark.parametrize("attack", DENIED)
async def test_attack_is_denied(roles: Roles, attack: str) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await run(roles.url("payment_service"), roles.of_here(attack))


async def test_lesser_role_makes_months_and_gets_no_right_to_them(roles: Roles) -> None:
    await run(roles.url("payment_service"), "SELECT make_months('payment_log', 12), make_months('event', 12)")
    owner = await asyncpg.connect(roles.url("payment_owner"))
    newest = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE month_until(inhrelid) = months_until('event')"
    service, made = roles.names["payment_service"], [row[0] for row in await owner.fetch(newest)]
    assert len(made) == 5
    for name in made:
        for right in ("INSERT", "UPDATE", "DELETE", "TRUNCATE"):
            assert not await owner.fetchval("SELECT has_table_privilege($1, $2, $3)", service, name, right)
        owned = "SELECT relowner::regrole::text FROM pg_class WHERE oid = $1::text::regclass"
        assert await owner.fetchval(owned, name) == roles.names["payment_owner"]
    await owner.close()


NEW_VERSION = (
    "INSERT INTO payment_config_history SELECT shop_id, 99, '891027350515', NULL, NULL, true,"
    " provider, name, city, description, 'the owner' FROM payment_config WHERE shop_id = 121038"
)
REDIRECT = (
    "UPDATE payment_config SET version = version + 1, organization_bin = '891027350515', device_token = NULL,"
    " device_token_id = NULL WHERE shop_id = 121038"
)


@pytest.mark.parametrize(
    "attack",
    [
        "INSERT INTO api_key (name, prefix, digest, scopes) VALUES ('eve', 'ps_', repeat('e', 64), '{admin}')",
        f"{NEW_VERSION.replace('99', '(SELECT version + 1 FROM payment_config WHERE shop_id = 121038)')}; {REDIRECT}",
        "UPDATE device_token SET ciphertext = (SELECT ciphertext FROM fingerprint_key)",
        "UPDATE api_key SET revoked_at = now() WHERE revoked_at IS NULL",
        "UPDATE notify_binding SET shop_id = NULL",
    ],
)
async def test_change_that_the_record_does_not_tell_does_not_commit(
    own_house: Services, roles: Roles, attack: str
) -> None:
    await _shop_with_everything(own_house)
    with pytest.raises(asyncpg.CheckViolationError, match="audit entry"):
        await run(roles.url("payment_service"), f"BEGIN; {attack}; COMMIT")


@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        (
            "ALTER TABLE payment ENABLE ROW LEVEL SECURITY",
            "ALTER TABLE payment DISABLE ROW LEVEL SECURITY",
            "row-level security keeps rows from this role in payment",
        ),
        (
            "SELECT setval('payment_log_id_seq', 1)",
            "SELECT setval('payment_log_id_seq', (SELECT max(id) FROM payment_log))",
            "ids were given already by the sequence payment_log_id_seq at 1 ",
        ),
        (
            "UPDATE pg_database SET datcollversion = '0' WHERE datname = current_database()",
            "UPDATE pg_database SET datcollversion = '1' WHERE datname = current_database()",
            "its indexes are of collation version 0, and this server has 1",
        ),
    ],
    ids=["row-level security", "a sequence", "another order of letters"],
)
async def test_nothing_starts_where_laws_and_service_see_different_rows_or_ids_come_twice(
    own_house: Services, roles: Roles, before: str, after: str, sentence: str
) -> None:
    superuser = roles.server.of(roles.database)
    await _shop_with_everything(own_house)
    await run(superuser, before)
    try:
        with pytest.raises(StartError, match=sentence):
            await check_database(own_house.settings)
    finally:
        await run(superuser, after)
    await check_database(own_house.settings)


async def _shop_with_everything(services: Services) -> None:
    """A shop, a key, a secret and a chat, unless they are there."""
    if not await services.routing.configs(FULL_ACCESS):
        fields = {"organization_bin": SHOPS[SHOP], "device_token": device_token_of(SHOP)}
        await services.routing.create(FULL_ACCESS, SHOP, fields)
    if not await services.bindings.all(FULL_ACCESS):
        chat = BindingRequest(channel="email", address="a@b.kz", shop_id=SHOP, events=["payment.paid"])
        await services.bindings.add(FULL_ACCESS, chat)
    if all(key.revoked_at for key in await services.access.all()):
        await services.access.create("standing", [Scope.PAYMENTS_READ], shops=ALL_SHOPS)
    await services.fingerprints.of()


async def test_change_that_the_record_tells_is_there_for_good(own_house: Services, roles: Roles) -> None:
    """What is left to an attacker: a change with an entry. It is sealed, and nothing takes it out again."""
    add = "INSERT INTO api_key (id, name, prefix, digest, scopes) VALUES (77, 'e', 'ps_', repeat('7', 64), '{admin}')"
    await run(roles.url("payment_service"), f"BEGIN; {add}; {written_down('api_key:77')}; COMMIT")
    assert (await compare(own_house.database)).problem is None
    await run(
        roles.server.of(roles.database),
        "SET session_replication_role = replica; DELETE FROM api_key WHERE id = 77",
    )
    problem = (await compare(own_house.database)).problem
    assert problem is not None
    assert problem.sentence.startswith("api_key:77 is gone")
