"""A relay in front of PostgreSQL that counts how often a client waits for an answer: its round trips, by statement."""

import asyncio
import threading
from collections import Counter
from types import TracebackType
from typing import Any, Self

_SSL_REQUEST = 80877103
_WAITS = b"SQH"
"""Sync, simple Query, Flush: after each of them the client waits for the server."""


class Relay:
    """Listens while in the block, in a thread of its own. Times through it mean nothing; counts do."""

    def __init__(self, to_port: int) -> None:
        self.to_port = to_port
        self.port = 0
        self.seen: Counter[str] = Counter()
        """Round trips, by the statements that went with them."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        listening = asyncio.start_server(self._serve, "127.0.0.1", 0)
        server = asyncio.run_coroutine_threadsafe(listening, self._loop).result()
        self.port = server.sockets[0].getsockname()[1]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection("127.0.0.1", self.to_port)
        counting = _Conversation(self.seen)
        await asyncio.gather(_pump(reader, to_server, counting.feed), _pump(from_server, writer, lambda _: None))


class _Conversation:
    """What one client says."""

    def __init__(self, seen: Counter[str]) -> None:
        self.seen, self.buffer, self.begun = seen, b"", False
        self.prepared: dict[bytes, str] = {}
        self.said: list[str] = []

    def feed(self, data: bytes) -> None:
        self.buffer += data
        while True:
            head = 1 if self.begun else 0  # what comes first has a length but no type
            if len(self.buffer) < head + 4:
                return
            size = head + int.from_bytes(self.buffer[head : head + 4])
            if len(self.buffer) < size:
                return
            message, self.buffer = self.buffer[:size], self.buffer[size:]
            if self.begun:
                self._note(message[:1], message[5:])
            else:
                self.begun = int.from_bytes(message[4:8]) != _SSL_REQUEST

    def _note(self, kind: bytes, body: bytes) -> None:
        if kind == b"P":
            name, text, *_ = body.split(b"\0")
            self.prepared[name] = " ".join(text.decode().split())
            self.said.append("prepare " + self.prepared[name])
        elif kind == b"B":
            self.said.append(self.prepared.get(body.split(b"\0")[1], "?"))
        elif kind == b"Q":
            self.said.append(" ".join(body[:-1].decode().split()))
        if kind in _WAITS:
            self.seen[" + ".join(self.said) or "nothing but a Sync"] += 1
            self.said = []


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, look: Any) -> None:
    try:
        while data := await reader.read(65536):
            look(data)
            writer.write(data)
    except OSError:
        pass
    finally:
        writer.close()
