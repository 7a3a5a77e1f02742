"""The TCP proxy between service and stand-in. It hands every call on, byte by byte, unless a fault was planned for it.

A fault is a course: it decides what the stand-in hears of a call, what the service hears of the reply, and when. It is
planned for the calls of one operation that carry one name: the message of a payment, the ``external_id`` (or the
``external_id`` and the amount) of a refund or a status, or the BIN of a seller. What befalls a connection before
anything of the call can be read is not planned by name: it is a state of the door (``shut``, ``refuse_all``,
``swallow_all``, ``keep_waiting``).
"""

import asyncio
import contextlib
import functools
import re
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias
from urllib.parse import parse_qsl, urlsplit

from tests.support.proxy import Connection, RawProxy

PATIENCE_S = 30
"""No course outlives its caller by more than this, whatever happens."""
_BACKLOG = 512
_CONNECTION = re.compile(rb"(?i)\r\nconnection:[^\r]*")


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole reply of the stand-in, which it ended by closing."""

    head: bytes
    """Status line and headers, with the blank line."""
    body: bytes

    @property
    def whole(self) -> bytes:
        return self.head + self.body


@dataclass(slots=True)
class Call:
    """One call of the service, as it passes."""

    proxy: "FaultProxy"
    line: Connection
    op: str
    query: dict[str, str]
    request: bytes
    number: int
    """How many calls the same connection carried before."""

    @property
    def names(self) -> Iterator[str]:
        """What a fault for this call may have been planned under, the closest first."""
        if external_id := self.query.get("externalId"):
            yield f"{external_id} {self.query.get('amount', '')}"
            yield external_id
        if message := self.query.get("message"):
            yield message.rpartition(" #")[0]
        if organization_bin := self.query.get("organizationBin"):
            yield f"BIN {organization_bin}"
        yield ""

    @property
    def short_code(self) -> str | None:
        """The code of the payment that the message ends with."""
        return self.query["message"].rpartition("#")[2] if "message" in self.query else None

    async def apply(self) -> Reply:
        """Let the stand-in have the call, once; its reply is not handed on."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.proxy.upstream)
        try:
            writer.write(_CONNECTION.sub(b"", self.request[:-4]) + b"\r\nConnection: close\r\n\r\n")
            async with asyncio.timeout(PATIENCE_S):
                head, blank, body = (await reader.read()).partition(b"\r\n\r\n")
        finally:
            writer.close()
        return Reply(head + blank, body)

    async def say(self, *pieces: bytes) -> None:
        """Send bytes to the service."""
        await self.line.say(*pieces)

    async def gone(self, within_s: float = PATIENCE_S) -> bool:
        """Wait until the service hangs up; False when it has not in that time."""
        try:
            async with asyncio.timeout(within_s):
                await self.line.hang()
        except TimeoutError:
            return False
        except ConnectionError:
            pass
        return True


Course: TypeAlias = Callable[[Call], Awaitable[bool | None]]
"""What happens to a call. True: the connection lives on and may carry the next one."""
Watcher: TypeAlias = Callable[[Call], Awaitable[None]]


@dataclass(slots=True)
class FaultProxy(RawProxy):
    """Listens on 127.0.0.1 before one stand-in."""

    course: Callable[[Connection], Awaitable[None]] = field(init=False)
    upstream: int = 0
    """The stand-in's port."""
    watchers: list[Watcher] = field(default_factory=list)
    """Told of every call before anything is done with it; what they raise is not caught."""
    played: Counter[tuple[str, str]] = field(default_factory=Counter)
    """How often each planned fault was met, by the operation and the name it was planned under."""
    _plans: dict[tuple[str, str], tuple[Course, int | None]] = field(default_factory=dict)
    _listener: socket.socket | None = None
    _accepting: asyncio.Task[None] | None = None
    _unread_s: float = 0
    _resets: bool = False
    _crowd: list[socket.socket] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.course = self._carry

    # --- planning

    def plan(self, op: str, name: str, course: Course, times: int | None = 1) -> None:
        """Let the next ``times`` calls of an operation that carry a name take a course; without it all do."""
        self._plans[op, name] = (course, times)

    def forget(self, op: str, name: str) -> None:
        """Take a plan back."""
        self._plans.pop((op, name), None)

    def _planned(self, call: Call) -> Course | None:
        for name in call.names:
            if (plan := self._plans.get((call.op, name))) is None:
                continue
            course, times = plan
            if times == 1:
                del self._plans[call.op, name]
            elif times is not None:
                self._plans[call.op, name] = (course, times - 1)
            self.played[call.op, name] += 1
            return course
        return None

    # --- the door: each state also ends the connections that were kept

    async def start(self) -> None:
        """Listen, on the same port as before if there was one."""
        await self._shut()
        self._listener = _listener(self.port, _BACKLOG)
        self.port = self._listener.getsockname()[1]
        self._accepting = asyncio.create_task(self._accept_all(self._listener))

    async def end(self) -> None:
        """Listen no more, and end every connection."""
        await self._shut()
        self.stop()
        await self.settle()

    @contextlib.asynccontextmanager
    async def shut(self) -> AsyncIterator[None]:
        """Nobody listens: connections are refused."""
        await self._shut()
        self.stop()
        try:
            yield
        finally:
            await self.start()

    @contextlib.asynccontextmanager
    async def refuse_all(self) -> AsyncIterator[None]:
        """Every connection is reset as soon as it is accepted, before a byte of it is read."""
        self._resets = True
        self.stop()
        try:
            yield
        finally:
            self._resets = False

    @contextlib.asynccontextmanager
    async def swallow_all(self) -> AsyncIterator[None]:
        """The backlog is full: what asks for a connection hears nothing at all."""
        await self._shut()
        self.stop()
        self._listener = _listener(self.port, 0)
        try:
            await self._fill_backlog()
            yield
        finally:
            for one in self._crowd:
                one.close()
            self._crowd.clear()
            await self.start()

    @contextlib.asynccontextmanager
    async def keep_waiting(self, seconds: float) -> AsyncIterator[None]:
        """Connections and requests are taken, yet nobody reads them: each waits for so long."""
        self._unread_s = seconds
        self.stop()
        try:
            yield
        finally:
            self._unread_s = 0

    async def _shut(self) -> None:
        if self._accepting is not None:
            self._accepting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._accepting
            self._accepting = None
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def _accept_all(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            taken, _address = await loop.sock_accept(listener)
            reader, writer = await asyncio.open_connection(sock=taken)
            if self._resets:
                Connection(self, reader, writer).reset()
                continue
            task = asyncio.create_task(self.accept(reader, writer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            task.add_done_callback(functools.partial(_close, writer))  # stopped before it began, it does nothing

    async def _fill_backlog(self) -> None:
        """Connect until a connection is no longer answered."""
        loop = asyncio.get_running_loop()
        while True:
            one = socket.socket()
            one.setblocking(False)
            self._crowd.append(one)
            try:
                async with asyncio.timeout(0.2):
                    await loop.sock_connect(one, ("127.0.0.1", self.port))
            except TimeoutError:
                return

    # --- carrying

    async def _carry(self, line: Connection) -> None:
        """Live through one connection: each call takes its course, or is handed on."""
        upstream: asyncio.StreamWriter | None = None
        handing_back: asyncio.Task[None] | None = None
        number = 0
        await asyncio.sleep(self._unread_s)
        try:
            while (call := await self._next_call(line, number)) is not None:
                number += 1
                for watcher in self.watchers:
                    await watcher(call)
                if (course := self._planned(call)) is not None:
                    if not await course(call):
                        return
                    continue
                if upstream is None:
                    reader, upstream = await asyncio.open_connection("127.0.0.1", self.upstream)
                    handing_back = asyncio.create_task(_hand_back(reader, line))
                upstream.write(call.request)
                await upstream.drain()
        finally:
            # Before anything is waited for: a connection may be ended a second time while it ends.
            if upstream is not None:
                upstream.close()
            if handing_back is not None:
                handing_back.cancel()
                await asyncio.gather(handing_back, return_exceptions=True)

    async def _next_call(self, line: Connection, number: int) -> Call | None:
        try:
            request = await line.reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return None
        target = urlsplit(request.split(b" ", 2)[1].decode("ascii"))
        query = dict(parse_qsl(target.query, keep_blank_values=True))
        return Call(self, line, target.path.strip("/"), query, request, number)


async def _hand_back(reader: asyncio.StreamReader, line: Connection) -> None:
    """Hand on what the stand-in says, and end as it ends."""
    try:
        while data := await reader.read(65536):
            await line.say(data)
    except ConnectionError:
        line.reset()
    else:
        line.writer.close()


def _close(writer: asyncio.StreamWriter, _ended: object) -> None:
    writer.close()


def _listener(port: int, backlog: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(backlog)
    listener.setblocking(False)
    return listener


@contextlib.asynccontextmanager
async def fault_proxy(upstream: int) -> AsyncIterator[FaultProxy]:
    """A proxy before the stand-in at this port, until the block ends."""
    proxy = FaultProxy(upstream=upstream)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.end()
