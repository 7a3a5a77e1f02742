"""What every test may ask for: a real PostgreSQL with the real schema, the services wired as in production, a client.

One throw-away server serves the whole run; the process that starts pytest owns it, and each xdist worker has a
database of its own, copied from a migrated template. Services really commit, and tables are emptied between tests.
"""

import asyncio
import contextlib
import gc
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
import respx
from aiosmtpd.controller import Controller
from argon2 import PasswordHasher
from fastapi import FastAPI

from payment_dev.postgres import EmbeddedPostgres
from payment_service.access import passwords
from payment_service.access.service import FULL_ACCESS, Scope
from payment_service.api.middleware import Drain
from payment_service.api.throttle import throttle_of
from payment_service.postgres import schema
from payment_service.postgres.database import Database
from payment_service.postgres.visibility import ALL_SHOPS
from payment_service.programs.serve import create_app
from payment_service.services import Services, build
from payment_service.settings import Settings
from tests.support.database import LOST, Picture, Server, connect_for_emptying, empty_tables, start_postgres
from tests.support.mailbox import Mailbox
from tests.support.mocker import TransportMocker
from tests.support.processes import free_port
from tests.support.replies import GoodProxy
from tests.support.shops import ENCRYPTION_KEY, SHOPS, device_token_of

PROXY = "http://127.0.0.1:1"
"""Nobody listens there: what respx does not answer is not sent."""

_server = pytest.StashKey[EmbeddedPostgres]()
_url = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    worker_input = getattr(config, "workerinput", None)
    if worker_input is not None:
        config.stash[_url] = worker_input["postgres_url"]
        return
    if config.option.collectonly:
        return
    server = start_postgres(Path(tempfile.mkdtemp(prefix="payment-service-tests-")))
    config.stash[_server] = server
    config.stash[_url] = server.url()


def pytest_configure_node(node: Any) -> None:
    """Tell an xdist worker where the server is."""
    node.workerinput["postgres_url"] = node.config.stash[_url]


def pytest_unconfigure(config: pytest.Config) -> None:
    server = config.stash.get(_server, None)
    if server is not None:
        server.remove()


def pytest_collection() -> None:
    """No garbage is looked for while ten thousand tests are collected: there is none, and looking takes seconds."""
    gc.disable()


def pytest_collection_finish() -> None:
    """What was collected stays to the end, so the collector need not walk through it ever again."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def server(pytestconfig: pytest.Config) -> Server:
    return Server(pytestconfig.stash[_url])


@pytest.fixture(scope="session")
async def database_url(server: Server, worker_id: str) -> str:
    """This worker's own database, with the schema at head."""
    return await server.make(f"tests_{worker_id}")


@pytest.fixture(scope="session")
def worker_id(request: pytest.FixtureRequest) -> str:
    """Which xdist worker this is; ``main`` without xdist."""
    worker_input: dict[str, Any] = getattr(request.config, "workerinput", {"workerid": "main"})
    return str(worker_input["workerid"])


@pytest.fixture(scope="session")
async def connections() -> AsyncIterator[list[asyncpg.Connection]]:
    """Connections that are still good. Each is warm: a new one would read the whole catalogue anew."""
    connections: list[asyncpg.Connection] = []
    yield connections
    for connection in connections:
        await connection.close()


@pytest.fixture(scope="session")
async def emptying() -> AsyncIterator[list[asyncpg.Connection]]:
    """The connection over which the database is emptied, once there is one."""
    connections: list[asyncpg.Connection] = []
    yield connections
    for connection in connections:
        await connection.close()


@pytest.fixture
async def emptied(database_url: str, emptying: list[asyncpg.Connection]) -> asyncpg.Connection:
    """A connection to put things back over, on which no law holds; the database is empty when the test begins."""
    for connection in emptying:
        with contextlib.suppress(*LOST):  # a test may have cut it
            await empty_tables(connection)
            return connection
    emptying[:] = [await connect_for_emptying(database_url)]
    await empty_tables(emptying[0])
    return emptying[0]


@pytest.fixture
async def sql(
    database_url: str, connections: list[asyncpg.Connection], emptied: asyncpg.Connection
) -> AsyncIterator[asyncpg.Connection]:
    """A plain connection to this worker's database, which is empty when the test begins."""
    connection = connections.pop() if connections else await asyncpg.connect(database_url)
    yield connection
    if connection.is_in_transaction():
        await connection.close()
    if not connection.is_closed():
        await connection.reset()
        connections.append(connection)


def _settings(database_url: str) -> Settings:
    return Settings(
        _env_file=None,
        database_url=database_url,
        database_pool_size=10,
        production_api_url=PROXY,
        kaspi_access_token="test-access-token",
        encryption_keys=ENCRYPTION_KEY,
        metrics_public=True,
        docs_enabled=True,
        rate_limits=False,  # tests ask faster than anybody may
    )


@pytest.fixture(scope="session")
def settings_once(database_url: str) -> Settings:
    """Reading the environment takes as long as a small test."""
    return _settings(database_url)


@pytest.fixture
def settings(settings_once: Settings) -> Settings:
    """Settings as in production, with short times."""
    return settings_once.model_copy()


class _KeptOpen(Database):
    """Connections that outlive the services of one test, for those of the next."""

    async def close(self) -> None:
        """Not yet."""


@pytest.fixture(scope="session")
async def kept_open(database_url: str) -> AsyncIterator[Database]:
    database = _KeptOpen(database_url, pool_size=20)
    yield database
    await Database.close(database)


@pytest.fixture
async def services(settings: Settings, sql: asyncpg.Connection, kept_open: Database) -> AsyncIterator[Services]:
    """The services, wired as in production, over empty tables."""
    services = build(settings, kept_open)
    yield services
    await services.inflight.drain(10)
    await services.close()


@pytest.fixture(scope="session")
async def picture_of_the_shops(server: Server, worker_id: str) -> Picture:
    """The seven shops as the service makes them."""
    services = build(_settings(await server.make(f"shops_{worker_id}")))
    for shop_id, organization_bin in SHOPS.items():
        fields = {"organization_bin": organization_bin, "device_token": device_token_of(shop_id)}
        await services.routing.create(FULL_ACCESS, shop_id, fields)
    return await _picture_of(services)


@pytest.fixture
async def shops(services: Services, emptied: asyncpg.Connection, picture_of_the_shops: Picture) -> dict[int, str]:
    """The seven shops with their device tokens; returns shop_id -> BIN."""
    await picture_of_the_shops.put_back(emptied)
    return SHOPS


async def _picture_of(services: Services) -> Picture:
    """What the services have made in a database of their own; they are closed."""
    await services.close()
    connection = await asyncpg.connect(services.settings.database_url.get_secret_value())
    picture = await Picture.take(connection)
    await connection.close()
    # That it was made is in the record too; what most tests look for in it came later.
    del picture.rows["payment_log"], picture.last_ids["payment_log_id_seq"]
    return picture


@pytest.fixture
def wire() -> Iterator[respx.MockRouter]:
    """The proxy's side of the wire. A call that the test did not foresee fails it.

    respx answers in place of the transport, so what depends on bytes leaving (not sent or unknown) needs a real
    socket: see tests/providers.
    """
    with respx.mock(base_url=PROXY, assert_all_called=False, using=TransportMocker.name) as router:
        yield router


@pytest.fixture
def proxy(wire: respx.MockRouter) -> GoodProxy:
    """A wire that takes everything on."""
    return GoodProxy(wire)


_DRAIN = Drain()
_APPS: list[FastAPI] = []
"""The app, made once: FastAPI works out its routes at the first request, which takes longer than most tests."""


@pytest.fixture
def drain() -> Drain:
    """Whether the app is stopping: it is not, when the test begins."""
    _DRAIN.begun = False
    return _DRAIN


@pytest.fixture
def app(services: Services, drain: Drain) -> FastAPI:
    """The app as in production, over this test's services."""
    if not _APPS:
        _APPS.append(create_app(services, drain))
    [app] = _APPS
    app.state.services = services
    app.state.throttle = throttle_of(services.settings)
    app.state.schema_head = schema.head()
    return app


ClientMaker = Callable[..., httpx.AsyncClient]


@pytest.fixture
async def make_client(app: FastAPI) -> AsyncIterator[ClientMaker]:
    """Makes clients of the app; ``key`` is sent as a bearer token."""
    clients: list[httpx.AsyncClient] = []

    def make(key: str | None = None) -> httpx.AsyncClient:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        transport = httpx.ASGITransport(app)
        client = httpx.AsyncClient(transport=transport, base_url="http://service", headers=headers)
        clients.append(client)
        return client

    yield make
    await asyncio.gather(*(client.aclose() for client in clients))


@pytest.fixture(scope="session")
async def key_once(server: Server, worker_id: str) -> tuple[str, Picture]:
    """A key that may do everything in every shop, and its row."""
    services = build(_settings(await server.make(f"key_{worker_id}")))
    made = await services.access.create("tests", list(Scope), shops=ALL_SHOPS)
    return made.key, await _picture_of(services)


@pytest.fixture
async def client(
    make_client: ClientMaker, emptied: asyncpg.Connection, key_once: tuple[str, Picture]
) -> httpx.AsyncClient:
    """A client with a key that may do everything in every shop."""
    key, picture = key_once
    await picture.put_back(emptied)
    return make_client(key)


@pytest.fixture
def database(services: Services) -> Database:
    return services.database


@pytest.fixture
def quick_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passwords are hashed in no time: what is tested is not how long a hash takes."""
    quick = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    monkeypatch.setattr(passwords, "_hasher", quick)
    monkeypatch.setattr(passwords, "_DUMMY_HASH", quick.hash("the password of nobody"))


@pytest.fixture(scope="session")
def mail_server() -> Iterator[Mailbox]:
    mailbox = Mailbox(free_port())
    controller = Controller(mailbox, hostname="127.0.0.1", port=mailbox.port)
    controller.start()
    yield mailbox
    controller.stop()


@pytest.fixture
def mailbox(mail_server: Mailbox) -> Mailbox:
    """A mail server that takes everything, with no mail yet."""
    mail_server.empty()
    return mail_server
