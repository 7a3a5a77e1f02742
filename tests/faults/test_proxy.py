"""The fault proxy by itself."""

import asyncio

from faults.proxy import fault_proxy


async def test_connection_that_is_ended_twice_leaves_none_open_to_the_stand_in() -> None:
    came, ended = asyncio.Event(), asyncio.Event()

    async def stand_in(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        came.set()
        await reader.read()
        ended.set()
        writer.close()

    server = await asyncio.start_server(stand_in, "127.0.0.1", 0)
    async with server, fault_proxy(server.sockets[0].getsockname()[1]) as proxy:
        _, client = await asyncio.open_connection("127.0.0.1", proxy.port)
        client.write(b"GET /status/ HTTP/1.1\r\n\r\n")
        await came.wait()
        proxy.stop()
        await asyncio.sleep(0)  # now it waits for what hands the reply back
        proxy.stop()
        async with asyncio.timeout(10):
            await ended.wait()
        client.close()
