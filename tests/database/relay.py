"""A relay before PostgreSQL that loses the answer to a COMMIT, or the whole line: the wire, and nothing of ours."""

import asyncio
from contextlib import suppress
from urllib.parse import urlsplit

COMMIT = b"COMMIT;"


class Relay:
    """Listens on this machine and hands on what it is told, both ways."""

    def __init__(self, database_url: str) -> None:
        self._upstream = urlsplit(database_url)
        self._server: asyncio.Server | None = None
        self._lines: set[asyncio.Task[None]] = set()
        self._lose_commit = False
        self._refused = False
        self.lost = 0
        self.refusals = 0

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
        self._cut()
        await asyncio.gather(*self._lines, return_exceptions=True)

    def lose_next_commit(self) -> None:
        """The next COMMIT is carried out, and its answer is not heard."""
        self._lose_commit = True

    def refuse(self, *, refused: bool) -> None:
        """Cut every line and take no new ones, until told otherwise."""
        self._refused = refused
        self._cut()

    def _cut(self) -> None:
        for line in self._lines:
            line.cancel()

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refused:
            self.refusals += 1
            writer.close()
            return
        line = asyncio.create_task(self._hand_on(reader, writer))
        self._lines.add(line)
        line.add_done_callback(self._lines.discard)

    async def _hand_on(self, client: asyncio.StreamReader, answers: asyncio.StreamWriter) -> None:
        server, requests = await asyncio.open_connection(self._upstream.hostname, self._upstream.port)
        deaf = asyncio.Event()

        async def out() -> None:
            while data := await client.read(65536):
                if self._lose_commit and COMMIT in data:
                    self._lose_commit = False
                    self.lost += 1
                    deaf.set()
                requests.write(data)
                await requests.drain()

        async def back() -> None:
            while data := await server.read(65536):
                if deaf.is_set():
                    return
                answers.write(data)
                await answers.drain()

        ways = [asyncio.create_task(out()), asyncio.create_task(back())]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for end in (answers, requests):
                end.close()
                with suppress(OSError):
                    await end.wait_closed()
