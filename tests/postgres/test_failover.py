"""A primary that dies and a replica that takes its place, with real replication: nothing is ever sent twice."""

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import respx

from payment_dev.postgres import EmbeddedPostgres
from payment_service.access.service import FULL_ACCESS
from payment_service.errors import DatabaseUnavailable, SendingHeld
from payment_service.postgres import migrating
from payment_service.postgres.connecting import connect_arguments
from payment_service.postgres.database import Database
from payment_service.postgres.servers import Servers
from payment_service.services import Services, build
from payment_service.settings import Settings
from tests.support.asking import KEY, SHOP, Alarms, Gate, ask, taking
from tests.support.processes import free_port
from tests.support.replies import accepted
from tests.support.shops import SHOPS, device_token_of
from tests.support.waiting import until

pytestmark = pytest.mark.xdist_group("failover")
CREATED = 12800627774


class Pair:
    """A primary and its replica."""

    def __init__(self, folder: Path) -> None:
        self.primary = EmbeddedPostgres(folder / "primary", port=free_port(), durable=False, max_connections=60)
        self.replica = EmbeddedPostgres(folder / "replica", port=free_port(), durable=False, max_connections=60)

    async def begin(self, *, synchronous: bool) -> None:
        """Start both; the replica is a copy of the primary's files."""
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
                f" password={source.password}'\n"
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
        database = Database(self.replica.url(), pool_size=2)
        await database.statements.fetch("SELECT pg_promote()")
        await database.close()

    async def caught_up(self) -> None:
        """Wait until the replica has all that the primary has."""
        one, other = Database(self.primary.url(), pool_size=2), Database(self.replica.url(), pool_size=2)

        async def has_all() -> bool:
            [(written,)] = await one.statements.fetch("SELECT pg_current_wal_lsn()::text")
            [(there,)] = await other.statements.fetch("SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn", written)
            return bool(there)

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
    await pair.promote()
    alarms = Alarms()
    gate.open.set()
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
    assert await services.holding.because() is None
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
    pair.kill_primary()
    await pair.promote()

    again = await services.payments.create(ask(idempotency_key=KEY))
    assert (again.replayed, again.payment.id, again.payment.state) == (True, first.id, "pending")
    assert route.call_count == 1
    assert await services.holding.because() is None
    assert not (await services.payments.create(ask(200))).replayed

    await services.holding.follow_promotion()
    latest = (await services.holding.status()).latest
    assert (latest.timeline, latest.replicas_have_all) == (2, False)  # no replica of its own
    await asyncio.to_thread(pair.replica.stop)
    await asyncio.to_thread(pair.replica.start)  # PostgreSQL has forgotten that it followed
    assert await services.holding.because() is None
    await services.close()


@pytest.mark.thorough
async def test_primary_without_its_synchronous_replica_sends_nothing(
    pair: Pair, settings: Settings, wire: respx.MockRouter
) -> None:
    await pair.begin(synchronous=True)
    services = await services_over(pair, settings)
    route = taking(wire)
    pair.replica.stop()
    with pytest.raises(DatabaseUnavailable):
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
