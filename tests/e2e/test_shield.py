"""Without a key nobody stops a real service: what is absurd, endless or too much is turned away, and health answers."""

import asyncio
import contextlib
import hashlib
import hmac

import httpx
import pytest

from tests.support.rig import Rig
from tests.support.waiting import until

pytestmark = pytest.mark.xdist_group("e2e")
SECRET = "a-secret-of-the-proxys-owner"


async def test_service_that_is_attacked_without_a_key_still_answers(rig: Rig) -> None:
    service = await rig.serve(KASPI_WEBHOOK_SECRET=SECRET, RATE_LIMITS="on", RATE_PER_ADDRESS="3")
    silent = [await asyncio.open_connection("127.0.0.1", service.port) for _ in range(200)]

    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    writer.write(b"GET /payments HTTP/1.1\r\n")
    with contextlib.suppress(ConnectionError):
        for _ in range(100):
            writer.write(b"X-A: " + b"a" * 1000 + b"\r\n")
            await writer.drain()
    assert b" 431 " in await asyncio.wait_for(reader.readline(), 10)
    writer.close()

    async with httpx.AsyncClient(base_url=service.url, trust_env=False, timeout=10) as nobody:
        hint = b'{"payment_id": "123", "timestamp": 1e999999999999}'
        signature = hmac.new(SECRET.encode(), hint, hashlib.sha256).hexdigest()
        json = {"Content-Type": "application/json"}
        unsigned = await nobody.post("/webhooks/kaspi", content=hint, headers=json)
        signed = await nobody.post("/webhooks/kaspi", content=hint, headers={**json, "X-Signature": signature})
        assert [unsigned.status_code, signed.status_code] == [401, 422]

        async def too_many() -> httpx.Response | None:
            answer = await nobody.get("/payments")
            return answer if answer.status_code == 429 else None

        refused = await until(too_many)
        assert refused is not None
        assert refused.headers["ratelimit-policy"] == '"address";q=30;w=10'
        assert (await nobody.get("/health/ready")).status_code == 200
    for _, one in silent:
        one.close()
    assert (await rig.client(service).get("/payments")).status_code == 200
