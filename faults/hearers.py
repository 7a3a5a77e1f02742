"""All bindings happened: a webhook's receiver and Telegram's Bot API, as strict as those out there are."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Final

from tests.support.proxy import http

BOT_TOKEN: Final = "4711:faults-bot-token"
_LONGEST_MESSAGE: Final = 4096
"""Telegram counts in UTF-16: a character beyond the first 65,536 is two."""


@dataclass(slots=True)
class Hearers:
    """Listens on 127.0.0.1 and takes whatever is told."""

    events: list[dict[str, Any]] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One call, and the end of its connection."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            length = int(head.partition("content-length:")[2].partition("\r\n")[0] or 0)
            body = json.loads(await reader.readexactly(length)) if length else {}
            writer.write(self._answer(head.split(" ", 2)[1], body))
            await writer.drain()
        writer.close()

    def _answer(self, path: str, body: dict[str, Any]) -> bytes:
        if not path.endswith("/sendmessage"):
            self.events.append(body)
            return http(204, b"")
        if len(body["text"].encode("utf-16-le")) // 2 > _LONGEST_MESSAGE:
            said: dict[str, Any] = {"ok": False, "error_code": 400, "description": "Bad Request: message is too long"}
            return http(400, json.dumps(said).encode(), "Content-Type: application/json")
        self.messages.append(body["text"])
        said = {"ok": True, "result": {"message_id": len(self.messages), "text": body["text"]}}
        return http(200, json.dumps(said).encode(), "Content-Type: application/json")


@contextlib.asynccontextmanager
async def hearers() -> AsyncIterator[Hearers]:
    """Listen until the block ends."""
    found = Hearers()
    server = await asyncio.start_server(found.take, "127.0.0.1", 0)
    found.port = server.sockets[0].getsockname()[1]
    try:
        yield found
    finally:
        server.close()
