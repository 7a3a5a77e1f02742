"""A relay before PostgreSQL that cuts the line at a chosen statement, loses the answer to a COMMIT, or freezes.

The wire, and nothing of ours: it reads just so much of PostgreSQL's protocol that it can tell one message from the
next, and knows which process serves each line.
"""

import asyncio
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

_WRITES: Final = (b"COMMIT;", b"_intend(", b"INSERT INTO payment_log")
"""What commits: a transaction's end, or one of the single statements on the path of a payment."""
_ASKS_FOR_TLS: Final = frozenset({80877103, 80877104})
_STATEMENTS: Final = frozenset(b"PEQ")
"""Parse, Execute, Query: the messages at which something is done."""
_ANSWERS: Final = frozenset(b"1CEZ")
"""Parsed, command complete, error, ready: the server has done what it was told."""
_PROCESS: Final = ord("K")

Killer = Callable[[int], Awaitable[None]]
"""Ends a process of the server, given its number there."""


@dataclass(frozen=True, slots=True)
class Cut:
    """Where a line is cut: at the n-th statement from now on (1 is the next), before it is carried out or after."""

    statement: int
    after: bool
    kill: Killer | None = None
    """Ends the server's process, as an operator or a crash would; without it only the line goes."""


@dataclass(slots=True)
class _Line:
    client: asyncio.StreamReader
    answers: asyncio.StreamWriter
    server: asyncio.StreamReader
    requests: asyncio.StreamWriter
    process: int = 0
    """The process that serves it, as the server counts them."""
    deaf: bool = False
    """What the server answers next is not heard, and is the end."""
    kill: Killer | None = None
    prepared: dict[bytes, bytes] = field(default_factory=dict)
    """The texts of its prepared statements by their names."""
    bound: bytes = b""
    """The text of the statement that is executed next."""

    def text_of(self, message: bytes) -> bytes:
        """The text of what a message runs; nothing of one that runs nothing."""
        match chr(message[0]):
            case "P":
                name, text, _ = message[5:].split(b"\0", 2)
                self.prepared[name] = text
            case "B":
                _, name, _ = message[5:].split(b"\0", 2)
                self.bound = self.prepared.get(name, b"")
            case "E":
                return self.bound
            case "Q":
                return message[5:]
        return b""


class Relay:
    """Listens on this machine and hands on what it is told, both ways."""

    def __init__(self, database_url: str) -> None:
        self._upstream = urlsplit(database_url)
        self._server: asyncio.Server | None = None
        self._lines: set[asyncio.Task[None]] = set()
        self._lose_commit = 0
        self._refused = False
        self._cut: Cut | None = None
        self._flows = asyncio.Event()
        self._flows.set()
        self.lost = 0
        self.refusals = 0
        self.statements = 0
        """How many passed since the last ``cut_at`` or ``count``."""

    @property
    def url(self) -> str:
        assert self._server is not None
        port = self._server.sockets[0].getsockname()[1]
        account = self._upstream.netloc.rpartition("@")[0]
        return self._upstream._replace(netloc=f"{account}@127.0.0.1:{port}").geturl()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._take, "127.0.0.1", 0)

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        self.cut_all()
        await asyncio.gather(*self._lines, return_exceptions=True)

    # --- what can be broken

    def lose_next_commit(self, number: int = 1) -> None:
        """The next commit, or the n-th from now on, is carried out, and its answer is not heard."""
        self._lose_commit = number

    def refuse(self, *, refused: bool) -> None:
        """Cut every line and take no new ones, until told otherwise."""
        self._refused = refused
        self.cut_all()

    def freeze(self, *, frozen: bool) -> None:
        """Hand nothing on, either way, until told otherwise; no line is cut."""
        if frozen:
            self._flows.clear()
        else:
            self._flows.set()

    def count(self) -> None:
        """Count statements from now on, and cut nothing."""
        self.statements, self._cut = 0, None

    def cut_at(self, cut: Cut) -> None:
        """Cut the line that carries a statement, once."""
        self.statements, self._cut = 0, cut

    @property
    def is_cut(self) -> bool:
        """Whether the statement of the last ``cut_at`` has come."""
        return self._cut is None

    def cut_all(self) -> None:
        """Cut every line."""
        for line in self._lines:
            line.cancel()

    # --- the lines

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refused:
            self.refusals += 1
            writer.close()
            return
        line = asyncio.create_task(self._hand_on(reader, writer))
        self._lines.add(line)
        line.add_done_callback(self._lines.discard)
        line.add_done_callback(lambda _: writer.close())  # one that is cut before it began never ends by itself

    async def _hand_on(self, client: asyncio.StreamReader, answers: asyncio.StreamWriter) -> None:
        ends = [answers]
        ways: list[asyncio.Task[None]] = []
        try:
            await self._flows.wait()
            server, requests = await asyncio.open_connection(self._upstream.hostname, self._upstream.port)
            ends.append(requests)
            line = _Line(client, answers, server, requests)
            await self._greet(line)
            ways = [asyncio.create_task(self._ask(line)), asyncio.create_task(self._answer(line))]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        except (OSError, asyncio.IncompleteReadError):
            pass  # one of the two ends is away: so is the line
        finally:
            # Before anything is waited for: a line may be cut a second time while it ends.
            for way in ways:
                way.cancel()
            for end in ends:
                end.close()
            await asyncio.gather(*ways, *(end.wait_closed() for end in ends), return_exceptions=True)

    async def _greet(self, line: _Line) -> None:
        """The messages before the first that says of what kind it is; the server has no TLS to offer."""
        while True:
            length = await line.client.readexactly(4)
            message = length + await line.client.readexactly(struct.unpack("!I", length)[0] - 4)
            line.requests.write(message)
            if struct.unpack("!I", message[4:8])[0] not in _ASKS_FOR_TLS:
                return
            line.answers.write(await line.server.readexactly(1))

    async def _ask(self, line: _Line) -> None:
        while True:
            message = await _next(line.client)
            await self._flows.wait()
            text = line.text_of(message)
            if message[0] in _STATEMENTS:
                await self._look_at(line, text)
            line.requests.write(message)
            await line.requests.drain()

    async def _look_at(self, line: _Line, text: bytes) -> None:
        self.statements += 1
        if self._lose_commit and any(write in text for write in _WRITES):
            self._lose_commit -= 1
            if not self._lose_commit:
                self.lost += 1
                line.deaf = True
        cut = self._cut
        if cut is not None and self.statements == cut.statement:
            self._cut = None
            if cut.after:
                line.deaf, line.kill = True, cut.kill
            elif cut.kill is not None:
                await cut.kill(line.process)
            else:
                raise ConnectionResetError

    async def _answer(self, line: _Line) -> None:
        while True:
            message = await _next(line.server)
            await self._flows.wait()
            if message[0] == _PROCESS:
                line.process = struct.unpack("!I", message[5:9])[0]
            if line.deaf:
                if message[0] in _ANSWERS:
                    if line.kill is not None:
                        await line.kill(line.process)
                    return
                continue
            line.answers.write(message)
            await line.answers.drain()


async def _next(reader: asyncio.StreamReader) -> bytes:
    """One message: a letter, a length that counts itself, the rest."""
    head = await reader.readexactly(5)
    return head + await reader.readexactly(struct.unpack("!I", head[1:])[0] - 4)
