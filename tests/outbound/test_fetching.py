"""What a server of the operator's answers is taken as it comes, and never unpacked."""

import asyncio
import gzip

from payment_service.outbound.fetching import fetch


async def test_packed_reply_is_not_unpacked() -> None:
    bomb = gzip.compress(bytes(50_000_000))
    heads: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%b" % (len(bomb), bomb))
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert await fetch(f"http://127.0.0.1:{port}/") == (200, bomb)
    assert b"accept-encoding: identity\r\n" in heads[0].lower()
