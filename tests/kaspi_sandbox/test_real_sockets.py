"""What only a socket can show. The long times of this stand-in are 0.2 s, so nothing here waits long."""

import asyncio
import json
import socket
import subprocess
import sys
from urllib.parse import urlsplit

import httpx
import pytest

from kaspi_sandbox import run

from .calls import ACCESS_TOKEN, SELLER, TOKEN, Caller, config

QUERY = {
    "access_token": ACCESS_TOKEN,
    "organizationBin": SELLER,
    "deviceToken": TOKEN,
    "amount": "100",
    "message": "Test",
}


async def test_a_dropped_call_gets_no_byte_with_and_without_effect(real: Caller) -> None:
    for phone in ("77010009026", "77010009027"):
        with pytest.raises(httpx.RemoteProtocolError, match="without sending a response"):
            await real.create(phone=phone)
    assert [entry["applied"] for entry in await real.ledger()] == [False, True]


async def test_a_reset_call_is_reset(real: Caller) -> None:
    with pytest.raises(httpx.ReadError):
        await real.create(phone="77010009028")
    assert [entry["applied"] for entry in await real.ledger()] == [True]


async def test_a_cut_reply_looks_like_a_clean_one_with_half_a_body(real: Caller) -> None:
    answer = await real.create(phone="77010009034")
    assert (answer.status_code, "content-length" in answer.headers) == (200, False)
    assert answer.text.startswith('{"')
    with pytest.raises(json.JSONDecodeError):
        answer.json()
    assert [entry["applied"] for entry in await real.ledger()] == [True]


async def test_a_short_reply_breaks_its_promise(real: Caller) -> None:
    with pytest.raises(httpx.RemoteProtocolError, match="without sending complete message body"):
        await real.create(phone="77010009036")
    assert [entry["applied"] for entry in await real.ledger()] == [True]


async def test_a_dripping_reply_comes_in_many_pieces_and_whole(real: Caller) -> None:
    query = {**QUERY, "phone": "77010009037"}
    async with real.client.stream("GET", "/create/", params=query) as answer:
        pieces = [piece async for piece in answer.aiter_raw()]
    assert len(pieces) > 10
    (entry,) = await real.ledger()
    assert str(json.loads(b"".join(pieces))["data"]["externalId"]) == entry["external_id"]


async def test_a_late_reply_is_late_only_for_the_caller(real: Caller) -> None:
    query = {**QUERY, "phone": "77010009024"}
    with pytest.raises(httpx.ReadTimeout):
        await real.client.get("/create/", params=query, timeout=0.05)
    (entry,) = await real.ledger()
    assert entry["applied"] is True
    assert str((await real.create(phone="77010009024")).json()["data"]["externalId"]) > entry["external_id"]


async def test_a_call_that_is_never_answered_ends_without_a_byte(real: Caller) -> None:
    for phone in ("77010009022", "77010009023"):
        with pytest.raises(httpx.RemoteProtocolError, match="without sending a response"):
            await real.create(phone=phone)
    assert [entry["applied"] for entry in await real.ledger()] == [False, True]


async def test_hundreds_hang_while_others_are_served(real: Caller, address: str) -> None:
    path = httpx.URL(address, path="/create/", params={**QUERY, "phone": "77010009023"}).raw_path
    hostname, port = urlsplit(address).hostname, urlsplit(address).port

    async def hang() -> bytes:
        reader, writer = await asyncio.open_connection(hostname, port)
        writer.write(b"GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" % path)
        rest = await reader.read()
        writer.close()
        return rest

    hanging = [asyncio.create_task(hang()) for _ in range(300)]
    assert (await real.create()).status_code == 200
    assert set(await asyncio.gather(*hanging)) == {b""}
    assert len(await real.ledger(phone="77010009023", applied="true")) == 300


async def test_a_connection_serves_on_after_an_ordinary_call(real: Caller) -> None:
    assert [(await real.create()).status_code for _ in range(5)] == [200] * 5


def test_a_port_in_use_is_said_in_a_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SystemExit, match="choose another port"):
        run(config(port=taken.getsockname()[1]))


def test_the_program_refuses_to_listen_beyond_this_machine() -> None:
    program = [sys.executable, "-m", "kaspi_sandbox", "--host", "0.0.0.0"]
    done = subprocess.run(program, env={"KASPI_ACCESS_TOKEN": "x"}, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "loopback only" in done.stderr
