"""What compose.yaml starts, started here without containers: the same commands, settings and files."""

import asyncio
import json
from pathlib import Path

import httpx
import pytest

from tests.repository.test_compose import SERVICES
from tests.support.database import Server
from tests.support.documents import ROOT
from tests.support.processes import Process, clean_environment, free_port, run
from tests.support.shops import ENCRYPTION_KEY
from tests.support.waiting import until

pytestmark = pytest.mark.thorough


async def test_services_of_compose_take_a_payment(server: Server, worker_id: str, tmp_path: Path) -> None:
    ports = {"serve": free_port(), "stand-in": free_port()}
    elsewhere = {
        "DATABASE_URL": await server.make(f"compose_{worker_id}", empty=True),
        "PRODUCTION_API_URL": f"http://127.0.0.1:{ports['stand-in']}",
        "ENCRYPTION_KEYS": ENCRYPTION_KEY,
        "PORT": str(ports["serve"]),
    }

    def environment(name: str) -> dict[str, str]:
        return clean_environment(tmp_path, **{**SERVICES[name]["environment"], **elsewhere})

    def words(name: str) -> list[str]:
        places = {"/compose/": f"{ROOT}/compose/", "/ledger/": f"{tmp_path}/"}
        found = [str(word) for word in SERVICES[name]["command"]]
        for there, here in places.items():
            found = [word.replace(there, here) for word in found]
        return found

    def start(name: str, program: str, *more: str) -> Process:
        process = [program, *words(name), *more]
        return Process(process, environment=environment(name), folder=tmp_path, name=name, port=ports.get(name, 0))

    for name in ("migrate", "shops"):
        done = run(words(name), environment=environment(name), folder=tmp_path)
        assert done.returncode == 0, done.stderr
    scopes = ["--scope", "payments:write", "--scope", "payments:read", "--json"]
    made = run(["keys", "create", "me", *scopes], environment=environment("serve"), folder=tmp_path)
    key = json.loads(made.stdout)[0]["key"]
    running = [
        start("stand-in", "kaspi_sandbox", "--port", str(ports["stand-in"]), "--pay-after", "0.5"),
        start("serve", "payment_service"),
        start("worker", "payment_service"),
    ]
    try:
        await running[0].ready("/health")
        await running[1].ready()
        headers = {"Authorization": f"Bearer {key}"}
        async with httpx.AsyncClient(base_url=running[1].url, headers=headers, trust_env=False, timeout=40) as client:
            body = {"shop_id": 8, "amount": 100, "phone": "77015211545", "message": "Test payment"}
            created = (await client.post("/payments/kaspi/create", json=body)).json()
            assert created["state"] == "pending"

            async def paid() -> bool:
                return bool((await client.get(f"/payments/{created['id']}?wait=10")).json()["state"] == "paid")

            await until(paid, "the worker reads that it is paid", within_s=30)
    finally:
        await asyncio.gather(*(process.stop() for process in reversed(running)))
