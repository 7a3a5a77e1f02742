"""A primary that dies and a replica that takes its place, with real replication: nothing is ever sent twice."""

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
import respx
from pydantic import SecretStr

from payment_dev.postgres import EmbeddedPostgres
from payment_service.access.service import FULL_ACCESS
from payment_service.errors import DatabaseUnavailable, SendingHeld, StillRunning
from payment_service.idempotency.holding import HoldReason
from payment_service.postgres import migrating
from payment_service.postgres.cache import keep_fresh
from payment_service.postgres.connecting import ReplacedServerError, connect_arguments
from payment_service.postgres.database import Database
from payment_service.postgres.servers import Servers
from payment_service.programs import StartError
from payment_service.programs.start import check_database
from payment_service.services import Services, build
from payment_service.settings import Settings
from tests.support.asking import KEY, SHOP, Alarms, Gate, ask, taking
from tests.support.database import Server
from tests.support.processes import free_port
from tests.support.replies import accepted
from tests.support.shops import SHOPS, device_token_of
from tests.support.waiting import until

pytestmark = pytest.mark.xdist_group("failover")
CREATED = 12800627774
OTHER = next(shop for shop in SHOPS if shop != SHOP)


class Pair:
    """A primary and its replica."""

    def __init__(self, folder: Path) -> None:
        self.primary = EmbeddedPostgres(folder / "primary", port=free_port(), durable=False, max_connections=60)
        self.replica = EmbeddedPostgres(folder / "replica", port=free_port(), durable=False, max_connections=60)

    async def begin(self, *, synchronous: bool, of_replica: str = "") -> None:
        """Start both; the replica is a copy of the primary's files, with settings of its own."""
        self.primary.start()
        await asyncio.to_thread(migrating.migrate, self.primary.url())
        self.primary.stop()
        self.replica.start()
        self.replica.stop()
        shutil.rmtree(self.replica._cluster)
        shutil.copytree(self.primary._cluster, self.replica._cluster)
        shutil.copy(self.primary.home / "password", self.replica.home / "password")
        if synchronous:
            with (self.primary._cluster / "postgresql.auto.conf").open("a") as file:
                file.write("synchronous_standby_names = '*'\n")
        self.primary.start()
        source = urlsplit(self.primary.url())
        with (self.replica._cluster / "postgresql.auto.conf").open("a") as file:
            file.write(
                f"primary_conninfo = 'host={source.hostname} port={source.port} user={source.username}"
                f" password={source.password}'\n{of_replica}\n"
            )
        (self.replica._cluster / "standby.signal").touch()
        owner = self.primary._cluster.stat()
        for path in (self.replica._cluster, *self.replica._cluster.rglob("*")):
            os.chown(path, owner.st_uid, owner.st_gid)
        self.replica.start()

    @property
    def url(self) -> str:
        """An address of both."""
        one, other = urlsplit(self.primary.url()), urlsplit(self.replica.url())
        hosts = f"{one.hostname}:{one.port},{other.hostname}:{other.port}"
        return f"postgresql://{one.username}:{one.password}@{hosts}{one.path}"

    def kill_primary(self) -> None:
        """As when its machine loses power."""
        pid = int((self.primary._cluster / "postmaster.pid").read_text().split()[0])
        os.kill(pid, signal.SIGKILL)

    async def promote(self) -> None:
        """Make the replica the primary."""
        connection = await asyncpg.connect(self.replica.url())
        await connection.execute("SELECT pg_promote()")
        await connection.close()

    async def caught_up(self) -> None:
        """Wait until the replica has all that the primary has."""
        one, other = await asyncpg.connect(self.primary.url()), await asyncpg.connect(self.replica.url())

        async def has_all() -> bool:
            written = await one.fetchval("SELECT pg_current_wal_lsn()::text")
            return bool(await other.fetchval("SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn", written))

        await until(has_all)
        await one.close()
        await other.close()

    def end(self) -> None:
        """Stop both and take their files away."""
        for server in (self.replica, self.primary):
            server.remove()


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    pair = Pair(tmp_path)
    yield pair
    pair.end()


async def services_over(pair: Pair, settings: Settings) -> Services:
    """The services over both, with one shop and nothing that waits for the replica."""
    url = type(settings.database_url)(pair.url)
    services = build(settings.model_copy(update={"database_url": url}))
    fields = {"organization_bin": SHOPS[SHOP], "device_token": device_token_of(SHOP)}
    await services.routing.create(FULL_ACCESS, SHOP, fields)
    return services


@pytest.mark.thorough
async def test_replica_that_lacks_payments_sends_none_until_a_person_has_looked(
    pair: Pair, settings: Settings, wire: respx.MockRouter
) -> None:
    await pair.begin(synchronous=False)
    services = await services_over(pair, settings)
    await pair.caught_up()
    pair.replica.stop()  # it lags behind: what follows never reaches it
    route = taking(wire)
    first = (await services.payments.create(ask(idempotency_key=KEY))).payment
    gate = Gate(accepted(CREATED))
    wire.get("/create/").mock(side_effect=gate)
    under_way = services.inflight.begin(services.payments.create(ask(200, idempotency_key="under way")))
    await gate.reached.wait()

    pair.kill_primary()
    pair.replica.start()
    alarms = Alarms()
    gate.open.set()
    with pytest.raises(DatabaseUnavailable):  # the replica takes no writes yet, and the outcome waits for one that does
        await services.payments.create(ask(300))
    await pair.promote()
    payment = (await under_way).payment
    assert (payment.state, payment.external_id) == ("pending", str(CREATED))
    assert alarms["intent_lost"] == 1

    with pytest.raises(SendingHeld):
        await services.payments.create(ask(idempotency_key=KEY))
    assert route.call_count == 2  # the first, and the one under way
    again = await services.payments.create(ask(200, idempotency_key="under way"))
    assert (again.replayed, again.payment.id) == (True, payment.id)
    assert (await services.routing.config_of(FULL_ACCESS, SHOP)).row.organization_bin == SHOPS[SHOP]
    assert first.id != payment.id

    await services.holding.release("the payment of the gap was found in the cabinet and reported")
    assert await services.holding.hold_reason() is None
    await services.close()


@pytest.mark.thorough
async def test_synchronous_replica_takes_over_and_nothing_is_lost(
    pair: Pair, settings: Settings, wire: respx.MockRouter
) -> None:
    await pair.begin(synchronous=True)
    services = await services_over(pair, settings)
    await services.holding.release("replication is synchronous", replicas_have_all=True)
    route = taking(wire)
    first = (await services.payments.create(ask(idempotency_key=KEY))).payment
    of_replica = {"database_url": SecretStr(pair.replica.url()), "database_wait_s": 0.0}
    with pytest.raises(StartError, match="DATABASE_URL leads to a replica"):
        await check_database(settings.model_copy(update=of_replica))
    pair.kill_primary()
    await pair.promote()

    again = await services.payments.create(ask(idempotency_key=KEY))
    assert (again.replayed, again.payment.id, again.payment.state) == (True, first.id, "pending")
    assert route.call_count == 1
    assert await services.holding.hold_reason() is None
    assert not (await services.payments.create(ask(200))).replayed

    await services.holding.follow_promotion()
    latest = (await services.holding.status()).latest
    assert (latest.timeline, latest.replicas_have_all) == (2, False)  # no replica of its own
    await asyncio.to_thread(pair.replica.stop)
    await asyncio.to_thread(pair.replica.start)  # PostgreSQL has forgotten that it followed
    assert await services.holding.hold_reason() is None
    await services.close()


@pytest.mark.thorough
async def test_replica_that_stopped_at_a_moment_is_none_that_has_every_row(
    pair: Pair, settings: Settings, wire: respx.MockRouter
) -> None:
    """It has received every row, and does not show those after that moment."""
    await pair.begin(synchronous=True, of_replica="recovery_target_name = 'before'")
    services = await services_over(pair, settings)
    await services.holding.release("replication is synchronous", replicas_have_all=True)
    primary = await asyncpg.connect(pair.primary.url())
    await primary.execute("SELECT pg_create_restore_point('before')")
    await primary.close()
    route = taking(wire)
    await services.payments.create(ask(idempotency_key=KEY))
    pair.kill_primary()
    await pair.promote()
    with pytest.raises(SendingHeld):
        await services.payments.create(ask(idempotency_key=KEY))
    assert await services.holding.hold_reason() is HoldReason.OTHER_TIMELINE
    assert route.call_count == 1
    await services.close()


async def cancel_wait(url: str) -> None:
    """Cancel the next INSERT of a payment that waits for the replica."""
    sql = await asyncpg.connect(url)

    async def cancelled() -> bool:
        return bool(
            await sql.fetchval(
                "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity"
                " WHERE wait_event = 'SyncRep' AND query LIKE '%payment_intend%'"
            )
        )

    await until(cancelled)
    await sql.close()


@pytest.mark.thorough
async def test_process_leaves_a_primary_that_was_replaced_and_still_answers(pair: Pair, settings: Settings) -> None:
    await pair.begin(synchronous=False)
    services = await services_over(pair, settings)
    listening = asyncio.create_task(keep_fresh(services.database, services.routing.cache))

    async def bin_of_shop() -> str:
        return (await services.routing.config_of(FULL_ACCESS, SHOP)).row.organization_bin

    async def is_remembered() -> bool:
        return await bin_of_shop() == SHOPS[SHOP] and services.routing.cache.get(SHOP) is not None

    await until(is_remembered)
    await pair.caught_up()
    await pair.promote()  # and the primary runs on
    there = build(settings.model_copy(update={"database_url": SecretStr(pair.replica.url())}))
    await there.routing.update(FULL_ACCESS, SHOP, {"organization_bin": SHOPS[OTHER], "device_token": None})
    await services.database.check_servers()

    async def is_of_other() -> bool:
        return await bin_of_shop() == SHOPS[OTHER]

    await until(is_of_other)
    [(timeline,)] = await services.database.statements.fetch("SELECT this_timeline()")
    assert timeline == 2
    old = Database(pair.primary.url(), pool_size=2, direct_url=pair.replica.url())
    await old.statements.fetch("SELECT 1")
    await (await old.raw_connection()).close()
    with pytest.raises(ReplacedServerError, match="DATABASE_URL leads to"):
        await old.statements.fetch("SELECT 1")
    listening.cancel()
    for database in (old, there.database, services.database):
        await database.close()


async def test_direct_address_that_leads_to_another_database_is_refused(server: Server, database_url: str) -> None:
    elsewhere = await server.make("tests_elsewhere", empty=True)
    database = Database(database_url, pool_size=2, direct_url=elsewhere)
    await database.statements.fetch("SELECT 1")
    with pytest.raises(ReplacedServerError, match="DATABASE_DIRECT_URL leads to another database"):
        await database.raw_connection()
    await database.statements.fetch("SELECT 1")
    await database.close()


@pytest.mark.thorough
async def test_primary_without_its_synchronous_replica_sends_nothing(
    pair: Pair, settings: Settings, wire: respx.MockRouter
) -> None:
    await pair.begin(synchronous=True)
    sql = await asyncpg.connect(pair.primary.url())
    await sql.execute("ALTER DATABASE postgres SET client_min_messages = error")
    await sql.close()
    services = await services_over(pair, settings)
    await services.fingerprints.of()
    route = taking(wire)
    pair.replica.stop()
    # PostgreSQL calls a commit done, with a warning, when somebody cancels its wait: a tool that ends long statements.
    # And a role or a database can have set that it is not told of warnings.
    cancelling = asyncio.create_task(cancel_wait(pair.primary.url()))
    with pytest.raises(DatabaseUnavailable):
        await services.payments.create(ask(idempotency_key=KEY))
    await cancelling
    with pytest.raises(StillRunning):
        await services.payments.create(ask(idempotency_key=KEY))
    assert not route.called
    pair.replica.start()
    assert await services.inflight.drain(20) == 0
    assert (await services.payments.create(ask(idempotency_key=KEY))).payment.state == "pending"
    await services.close()


async def test_server_that_is_gone_without_a_word_is_asked_last_the_next_time(database_url: str) -> None:
    async def says_nothing(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await silence.wait()
        finally:
            writer.close()

    silence = asyncio.Event()
    silent = await asyncio.start_server(says_nothing, "127.0.0.1", 0)
    living = connect_arguments(database_url)
    ports = [silent.sockets[0].getsockname()[1], living["port"]]
    servers = Servers({**living, "host": ["127.0.0.1"] * 2, "port": ports, "target_session_attrs": "read-write"})
    with pytest.raises(TimeoutError):  # whoever asks has less time than the silent one takes
        async with asyncio.timeout(0.3):
            await servers.connect(timeout=10)
    for _ in range(2):
        async with asyncio.timeout(5):
            connection = await servers.connect(timeout=10)
        await connection.close()
    silence.set()
    silent.close()
