"""Nobody stops the server by how he speaks HTTP: over real sockets, on the event loop of production."""

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from payment_service.http_protocol import BoundedProtocol, connections_allowed

GET = b"GET / HTTP/1.1\r\nHost: service\r\n\r\n"
LIMIT = 20


@dataclass
class Noting:
    """A transport that notes what is written to it."""

    transport: Any
    writes: list[bytes]

    def write(self, data: bytes) -> None:
        self.writes.append(data)
        self.transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transport, name)


class Hasty(BoundedProtocol):
    """With deadlines that a test can wait for."""

    head_s = 0.25
    body_s = 0.25
    read_s = 0.4
    linger_s = 0.05
    writes: ClassVar[list[bytes]] = []

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's own
        super().connection_made(cast("asyncio.Transport", Noting(transport, self.writes)))


@dataclass
class App:
    """Answers how many bytes it was sent; ``/slow`` once ``go`` is set, ``/drip`` its head at once; ``/big`` 20 MB.

    ``/still`` holds the whole process up until ``go`` is set.
    """

    go: threading.Event = field(default_factory=threading.Event)
    begun: int = 0
    ended: list[str] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.begun += 1
        self.headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        count, more = 0, scope["path"] != "/unread"
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.ended.append("disconnect")
                return
            count, more = count + len(message["body"]), message.get("more_body", False)
        if scope["path"] == "/still":
            self.go.wait(5)
        while scope["path"] == "/slow" and not self.go.is_set():  # noqa: ASYNC110 - set in another thread
            await asyncio.sleep(0.01)
        body = b"x" * 20_000_000 if scope["path"] == "/big" else b'{"bytes": %d}' % count
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        while scope["path"] == "/drip" and not self.go.is_set():  # noqa: ASYNC110 - set in another thread
            await asyncio.sleep(0.01)
        await send({"type": "http.response.body", "body": body})
        self.ended.append(scope["path"])


@dataclass
class Service:
    """A server in a thread of its own."""

    port: int
    app: App
    server: uvicorn.Server

    clients: "list[Client]" = field(default_factory=list)

    async def connect(self) -> "Client":
        self.clients.append(Client(*await asyncio.open_connection("127.0.0.1", self.port)))
        return self.clients[-1]

    async def until(self, reached: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not reached():  # noqa: ASYNC110 - the server is in another thread
                await asyncio.sleep(0.01)

    async def until_connections(self, count: int) -> None:
        await self.until(lambda: len(self.server.server_state.connections) == count)


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def problem(self) -> dict[str, Any]:
        assert self.headers["content-type"] == "application/problem+json"
        body: dict[str, Any] = json.loads(self.body)
        assert body["status"] == self.status
        assert body["detail"].endswith(".")
        return body


@dataclass
class Client:
    """Says bytes and hears answers."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def say(self, *pieces: bytes, every_s: float = 0) -> "Client":
        with contextlib.suppress(ConnectionError):
            for piece in pieces:
                self.writer.write(piece)
                await self.writer.drain()
                await asyncio.sleep(every_s)
        return self

    async def hear(self) -> Answer:
        async with asyncio.timeout(5):
            head = await self.reader.readuntil(b"\r\n\r\n")
            first, *lines = head.decode().strip().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in lines)
            body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        return Answer(int(first.split(" ")[1]), headers, body)

    async def hear_the_end(self) -> None:
        """The server closes, and says nothing more."""
        async with asyncio.timeout(5):
            with contextlib.suppress(ConnectionError):
                assert await self.reader.read() == b""


@pytest.fixture(scope="module")
def lasting_service() -> Iterator[Service]:
    app = App()
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    server = uvicorn.Server(
        uvicorn.Config(app, http=Hasty, ws="none", lifespan="off", log_config=None, limit_concurrency=LIMIT)
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    yield Service(listener.getsockname()[1], app, server)
    server.should_exit = True
    thread.join(10)
    assert not thread.is_alive()


@pytest.fixture
async def service(lasting_service: Service) -> AsyncIterator[Service]:
    app = lasting_service.app
    app.go.clear()
    app.begun = 0
    app.ended.clear()
    yield lasting_service
    app.go.set()
    for client in lasting_service.clients:
        client.writer.transport.abort()
    lasting_service.clients.clear()
    await lasting_service.until_connections(0)
    # A request that is still being answered counts in the next test, and would miss that this one said "go".
    await lasting_service.until(lambda: not lasting_service.server.server_state.tasks)


@pytest.fixture
async def client(service: Service) -> Client:
    return await service.connect()


# --- what is good goes through


async def test_kept_connection_serves_one_request_after_another(client: Client) -> None:
    for size in (0, 1, 5_000, 64_000):
        await client.say(b"POST / HTTP/1.1\r\nHost: service\r\nContent-Length: %d\r\n\r\n" % size, b"x" * size)
        assert (await client.hear()).body == b'{"bytes": %d}' % size


async def test_head_and_body_leave_in_one_write(client: Client) -> None:
    Hasty.writes.clear()
    await (await client.say(GET)).hear()
    [written] = Hasty.writes
    assert written.endswith(b'\r\n\r\n{"bytes": 0}')


async def test_head_does_not_wait_for_a_body_that_comes_later(service: Service, client: Client) -> None:
    await client.say(GET.replace(b"/ ", b"/drip ", 1))
    async with asyncio.timeout(5):
        assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK")
        service.app.go.set()
        assert await client.reader.readexactly(len(b'{"bytes": 0}')) == b'{"bytes": 0}'


async def test_answer_without_a_body_is_its_head(client: Client) -> None:
    await client.say(GET.replace(b"GET", b"HEAD"), GET)
    async with asyncio.timeout(5):
        assert b"content-length: 12" in await client.reader.readuntil(b"\r\n\r\n")
    assert (await client.hear()).body == b'{"bytes": 0}'


async def test_idle_connection_is_kept_longer_than_a_head_may_take(client: Client) -> None:
    await client.say(GET)
    await client.hear()
    await asyncio.sleep(Hasty.head_s * 2)
    await client.say(GET)
    assert (await client.hear()).status == 200


async def test_request_that_takes_long_to_answer_is_not_a_slow_one(service: Service, client: Client) -> None:
    await client.say(b"GET /slow HTTP/1.1\r\n\r\n")
    await asyncio.sleep(Hasty.body_s * 2)
    service.app.go.set()
    assert (await client.hear()).status == 200


async def test_few_requests_sent_ahead_are_answered_in_order(client: Client) -> None:
    ask = b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n"
    await client.say(b"".join(ask % size + b"x" * size for size in range(10)))
    assert [(await client.hear()).body for _ in range(10)] == [b'{"bytes": %d}' % size for size in range(10)]


async def test_chunked_body_with_small_chunks_is_read(client: Client) -> None:
    await client.say(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 20_000 + b"0\r\n\r\n")
    assert (await client.hear()).body == b'{"bytes": 20000}'


async def test_trailer_is_no_header(service: Service, client: Client) -> None:
    await client.say(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nAuthorization: Bearer a\r\n\r\n")
    assert (await client.hear()).status == 200
    assert "authorization" not in service.app.headers


async def test_body_is_asked_for_when_the_client_expects_it(client: Client) -> None:
    await client.say(b"POST / HTTP/1.1\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
    assert (await client.hear()).status == 100
    await client.say(b"abc")
    assert (await client.hear()).body == b'{"bytes": 3}'


async def test_http_1_0_is_answered_and_closed(client: Client) -> None:
    await client.say(b"GET / HTTP/1.0\r\n\r\n")
    assert (await client.hear()).status == 200
    await client.hear_the_end()


@pytest.mark.parametrize("protocol", [b"websocket", b"h2c"])
async def test_upgrade_is_answered_as_if_not_asked_for_and_closed(client: Client, protocol: bytes) -> None:
    ask = b"POST / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: %s\r\nContent-Length: 3\r\n\r\nabc" % protocol
    await client.say(ask + b"z" * 100)
    assert (await client.hear()).status == 200
    await client.say(GET)
    await client.hear_the_end()


# --- bytes without end

LONG = {
    "one header without end": (b"GET / HTTP/1.1\r\nX-A: ", b"a" * 1000),
    "header lines without end": (b"GET / HTTP/1.1\r\n", b"X-A: a\r\n" * 100),
    "a name without end": (b"GET / HTTP/1.1\r\n", b"a" * 1000),
    "a request line without end": (b"GET /", b"a" * 1000),
    "empty lines without end": (b"", b"\r\n" * 500),
    "a chunk extension without end": (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;a=", b"a" * 1000),
    "trailers without end": (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X-A: a\r\n" * 100),
    "a trailer without end": (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-A: ", b"a" * 1000),
}


@pytest.mark.parametrize("start", [b"", GET], ids=["first", "second"])
@pytest.mark.parametrize("kind", LONG)
async def test_what_has_no_end_is_refused_after_16_kb(
    service: Service, client: Client, kind: str, start: bytes
) -> None:
    if start:
        await client.say(start)
        await client.hear()
    begin, piece = LONG[kind]
    said = asyncio.ensure_future(client.say(begin, *[piece] * 500, every_s=0.0001))
    answer = await client.hear()
    assert (answer.status, answer.problem()["code"]) == (431, "headers_too_large")
    assert answer.headers["connection"] == "close"
    await client.hear_the_end()
    said.cancel()
    await service.until_connections(0)


async def test_head_of_16_kb_is_taken(service: Service, client: Client) -> None:
    await client.say(b"GET / HTTP/1.1\r\nX-A: %s\r\n\r\n" % (b"a" * 16_000))
    assert (await client.hear()).status == 200
    assert service.app.headers["x-a"] == "a" * 16_000


async def test_body_that_nobody_reads_is_not_taken_without_end(service: Service, client: Client) -> None:
    async def said() -> None:
        await client.say(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
        await client.say(*[b"3e8\r\n" + b"x" * 1000 + b"\r\n"] * 5000)

    saying = asyncio.ensure_future(said())
    assert (await client.hear()).problem()["code"] == "body_too_large"
    await client.hear_the_end()
    await saying
    await service.until_connections(0)


async def test_requests_ahead_without_end_are_not_collected(service: Service, client: Client) -> None:
    await client.say(b"GET /slow HTTP/1.1\r\n\r\n" + b"GET / HTTP/1.1\r\n\r\n" * 20_000)
    await service.until(lambda: service.app.begun == 1)
    [protocol] = cast("set[Hasty]", service.server.server_state.connections)
    assert len(protocol.pipeline) < 300
    service.app.go.set()
    assert (await client.hear()).status == 200


# --- time without end


@pytest.mark.parametrize("pieces", [[b""], [b"\r\n"] * 100, [b"G"], [bytes([byte]) for byte in GET * 3]], ids=str)
async def test_head_has_a_deadline_however_it_drips(service: Service, client: Client, pieces: list[bytes]) -> None:
    saying = asyncio.ensure_future(client.say(*pieces, every_s=0.02))
    if pieces != [b""]:
        assert (await client.hear()).problem()["code"] == "request_timeout"
    await client.hear_the_end()
    saying.cancel()
    await service.until_connections(0)


@pytest.mark.parametrize("length", [b"Content-Length: 100", b"Transfer-Encoding: chunked"])
async def test_body_has_a_deadline_however_it_drips(service: Service, client: Client, length: bytes) -> None:
    saying = asyncio.ensure_future(
        client.say(b"POST / HTTP/1.1\r\n%s\r\n\r\n" % length, *[b"1\r\nx\r\n"] * 15, every_s=0.05)
    )
    assert (await client.hear()).status == 408
    await client.hear_the_end()
    saying.cancel()
    await service.until_connections(0)
    assert service.app.ended == ["disconnect"]


async def test_answer_that_nobody_reads_is_given_up(service: Service, client: Client) -> None:
    await client.say(b"GET /big HTTP/1.1\r\n\r\n")
    await service.until_connections(1)
    await service.until_connections(0)


WITH_BODY = b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n123456789"


@pytest.mark.skipif(not hasattr(socket, "TCP_INFO"), reason="this system does not say how long bytes have waited")
@pytest.mark.parametrize(
    ("ask", "read"),
    [(WITH_BODY, 0), (WITH_BODY, 20), (WITH_BODY, 45), (b"POST / HTTP/1.1\r\n\r\n", 0)],
    ids=["nothing", "half a head", "half a body", "nothing, and there is no body"],
)
async def test_request_that_lay_unread_while_the_process_stood_still_is_not_served(
    service: Service, client: Client, monkeypatch: pytest.MonkeyPatch, ask: bytes, read: int
) -> None:
    monkeypatch.setattr(Hasty, "unread_s", 0.1)
    late = await service.connect()
    await late.say(ask[:read], every_s=0.05)
    await client.say(b"GET /still HTTP/1.1\r\n\r\n")
    await service.until(lambda: service.app.begun == 1 + (read == 45))
    await late.say(ask[read:], every_s=0.2)
    service.app.go.set()
    answer = await late.hear()
    assert (answer.status, answer.problem()["code"]) == (408, "request_timeout")
    assert answer.headers["connection"] == "close"
    await late.hear_the_end()
    assert (await client.hear()).status == 200
    assert "/" not in service.app.ended


# --- never an answer in the place of another

LIES = {
    "a body longer than it said": b"garbage garbage",
    "a second head without end": b"GET / HTTP/1.1\r\nX-A: " + b"a" * 50_000,
    "a second head that does not come": b"GET / HT",
    "a second body that does not come": b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\n",
}


@pytest.mark.parametrize("kind", LIES)
async def test_refusal_never_stands_for_the_answer_to_an_earlier_request(
    service: Service, client: Client, kind: str
) -> None:
    await client.say(b"POST /slow HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc" + LIES[kind])
    await asyncio.sleep(Hasty.head_s * 1.5)
    service.app.go.set()
    answer = await client.hear()
    assert (answer.status, answer.body) == (200, b'{"bytes": 3}')
    assert service.app.ended[0] == "/slow"
    await client.hear_the_end()
    assert service.app.ended == ["/slow"]


async def test_body_that_still_comes_after_its_answer_is_not_answered_again(service: Service, client: Client) -> None:
    await client.say(b"POST /unread HTTP/1.1\r\nContent-Length: 100\r\n\r\nabc")
    assert (await client.hear()).status == 200
    await client.hear_the_end()


@pytest.mark.parametrize(
    "said",
    [
        b"garbage\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
async def test_what_is_no_http_is_a_problem_and_ends_the_connection(
    service: Service, client: Client, said: bytes
) -> None:
    await client.say(said)
    answer = await client.hear()
    assert (answer.status, answer.problem()["code"]) == (400, "bad_request")
    await client.hear_the_end()
    await service.until_connections(0)


# --- connections without end


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections may be silent for long: it is their number that counts here, on a machine however slow."""
    monkeypatch.setattr(Hasty, "head_s", 30)


@pytest.mark.usefixtures("patience")
async def test_silent_connections_make_room_for_those_that_ask(service: Service) -> None:
    for _ in range(LIMIT):
        await service.connect()
    await service.until_connections(LIMIT)
    await asyncio.sleep(1.1)
    client = await service.connect()
    await client.say(GET)
    assert (await client.hear()).status == 200
    # A tenth of them, those that were silent for longest, made room.
    await service.until_connections(LIMIT - LIMIT // 10 + 1)


@pytest.mark.usefixtures("patience")
async def test_over_the_limit_of_connections_only_health_is_answered(service: Service) -> None:
    clients = []
    for _ in range(LIMIT):
        clients.append(await service.connect())
        await clients[-1].say(b"GET /slow HTTP/1.1\r\n\r\n")
    await service.until(lambda: service.app.begun == LIMIT)
    clients.append(await service.connect())
    await service.until_connections(LIMIT + 1)
    await clients[-1].say(b"GET /health HTTP/1.1\r\n\r\n")
    assert (await clients[-1].hear()).status == 200
    await clients[-1].say(GET)
    answer = await clients[-1].hear()
    assert (answer.status, answer.problem()["code"]) == (503, "too_many_connections")
    assert answer.headers["retry-after"].isdigit()
    service.app.go.set()
    for client in clients[:LIMIT]:
        assert (await client.hear()).status == 200


@pytest.mark.usefixtures("patience")
async def test_connections_far_beyond_the_limit_are_told_so_at_once(service: Service) -> None:
    clients = [await service.connect() for _ in range(LIMIT)]
    for client in clients:
        await client.say(b"GET /slow HTTP/1.1\r\n\r\n")
    await service.until(lambda: service.app.begun == LIMIT)
    for _ in range(LIMIT // 10):
        await service.connect()
    await service.until_connections(LIMIT + LIMIT // 10)
    one_more = await service.connect()
    assert (await one_more.hear()).problem()["code"] == "too_many_connections"
    await one_more.hear_the_end()
    service.app.go.set()
    assert (await clients[0].hear()).status == 200


def test_there_are_no_more_connections_than_files() -> None:
    assert 50 <= connections_allowed() <= 2000
