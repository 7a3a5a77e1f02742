"""The main job, told to the world: each receiver hears of its own seller alone, signed and in order."""

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import receiver
from tests.support.database import Server
from tests.support.processes import Process, clean_environment, free_port
from tests.support.rig import Rig, whole
from tests.support.shops import SHOPS
from tests.support.waiting import until

pytestmark = pytest.mark.xdist_group("webhooks")


@pytest.fixture(scope="module")
async def rig(server: Server, worker_id: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    """A rig of its own: what other tests made is told of too, and would be counted here."""
    database_url = await server.make(f"webhooks_{worker_id}")
    async with whole(tmp_path_factory.mktemp("webhooks"), database_url) as rig:
        yield rig


@dataclass
class Receiver:
    """A receiver process with an endpoint for each seller."""

    program: Process
    folder: Path
    endpoints: dict[int, str]
    """Their ids, by shop."""

    def taken(self, shop_id: int) -> list[dict[str, Any]]:
        return [line for line in receiver.taken(self.folder) if line["path"] == f"/{shop_id}"]


def command(rig: Rig, *words: str, text: str = "") -> Any:
    done = rig.run("webhooks", *words, "--json", text=text)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
async def listening(rig: Rig, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Receiver]:
    await rig.route_all()
    folder, port = tmp_path_factory.mktemp("receiver"), free_port()
    words = ["tests.support.receiver", str(port), str(folder), "0"]
    environment = clean_environment(folder)
    program = Process(words, environment=environment, folder=folder, name="receiver", port=port)
    endpoints = {}
    for shop_id in SHOPS:
        body = {"url": f"{program.url}/{shop_id}", "shops": [shop_id]}
        made = (await rig.api.post("/admin/webhooks", json=body)).raise_for_status().json()
        rig.secrets.add(made["secret"])
        receiver.keep_secret(folder, f"/{shop_id}", made["secret"])
        endpoints[shop_id] = made["id"]
    await program.ready("/")
    yield Receiver(program, folder, endpoints)
    for endpoint_id in endpoints.values():
        (await rig.api.delete(f"/admin/webhooks/{endpoint_id}")).raise_for_status()
    with contextlib.suppress(AssertionError):
        await program.stop(signal.SIGTERM)


@dataclass
class Told:
    """One seller's payment, and what its receiver was told of it."""

    payment: dict[str, Any]
    events: list[dict[str, Any]]


async def sell(rig: Rig, listening: Receiver, shop_id: int) -> Told:
    made = await rig.paid(shop_id, amount=990)
    await rig.in_state(made["id"], "paid")
    assert (await rig.refund(made["external_id"], shop_id, amount=90)).status_code == 200

    async def told() -> list[dict[str, Any]] | None:
        events = listening.taken(shop_id)
        return events if {event["type"] for event in events} >= {"payment.paid", "refund.succeeded"} else None

    events = await until(told, f"the receiver of {shop_id} is told of payment and refund")
    return Told(await rig.payment(made["id"]), events)


@pytest.fixture(scope="module")
async def told(rig: Rig, listening: Receiver) -> dict[int, Told]:
    done = await asyncio.gather(*(sell(rig, listening, shop_id) for shop_id in SHOPS))
    return dict(zip(SHOPS, done, strict=True))


sellers = pytest.mark.parametrize("shop_id", SHOPS)


@sellers
async def test_receiver_is_told_of_every_move_in_order(told: dict[int, Told], shop_id: int) -> None:
    events = told[shop_id].events
    assert [event["type"] for event in events if "payment" not in event["data"]] == ["payment.pending", "payment.paid"]
    assert [event["type"] for event in events if "payment" in event["data"]] == ["refund.succeeded"]
    assert [event["webhook_id"] for event in events] == [event["id"] for event in events]


@sellers
async def test_receiver_is_told_of_its_own_seller_and_no_other(told: dict[int, Told], shop_id: int) -> None:
    for data in (event["data"].get("payment", event["data"]) for event in told[shop_id].events):
        assert (data["shop_id"], data["organization_bin"]) == (shop_id, SHOPS[shop_id])
        assert data["id"] == told[shop_id].payment["id"]


@sellers
async def test_last_version_told_is_how_the_payment_stands(told: dict[int, Told], shop_id: int) -> None:
    payment = told[shop_id].payment
    held = [event["data"].get("payment", event["data"]) for event in told[shop_id].events]
    last = max(held, key=lambda data: int(data["version"]))
    assert last == {name: payment[name] for name in last}


async def test_delivery_is_replayed_from_the_command_line(rig: Rig, listening: Receiver, told: dict[int, Told]) -> None:
    shop_id = next(iter(SHOPS))
    [paid] = [event for event in told[shop_id].events if event["type"] == "payment.paid"]
    [line] = command(
        rig, "deliveries", "--endpoint", listening.endpoints[shop_id], "--event", "payment.paid", "--state", "delivered"
    )
    assert line["event_id"] == paid["id"]
    assert command(rig, "replay", line["id"]) == [{"replayed": 1}]

    async def came_again() -> bool:
        return [event["webhook_id"] for event in listening.taken(shop_id)].count(paid["id"]) == 2

    await until(came_again, "the event comes again")


async def test_test_event_is_sent_and_its_answer_told(rig: Rig, listening: Receiver) -> None:
    shop_id = next(iter(SHOPS))
    [shown] = command(rig, "test", listening.endpoints[shop_id])
    assert (shown["state"], [tried["status"] for tried in shown["attempts"]]) == ("delivered", [204])


async def test_rotated_secret_is_verified_from_the_next_event_on(rig: Rig, listening: Receiver) -> None:
    shop_id = next(iter(SHOPS))
    [made] = command(rig, "rotate-secret", listening.endpoints[shop_id], "--keep-old", "60")
    rig.secrets.add(made["secret"])
    command(rig, "test", listening.endpoints[shop_id])  # still verified with the old one
    receiver.keep_secret(listening.folder, f"/{shop_id}", made["secret"])
    command(rig, "test", listening.endpoints[shop_id])
    assert not [line for line in receiver.taken(listening.folder) if "refused" in line]


async def test_endpoint_is_made_and_switched_off_from_the_command_line(rig: Rig, listening: Receiver) -> None:
    secret = "Bearer of-the-site"
    words = ["add", f"{listening.program.url}/new", "--event", "payment.paid", "--header", "X-A: 1"]
    [made] = command(rig, *words, "--header", "Authorization", text=f"{secret}\n")
    rig.secrets |= {made["secret"], secret}
    assert (made["events"], made["headers"]) == (["payment.paid"], {"X-A": "…", "Authorization": "…"})
    [off] = command(rig, "remove", made["id"])
    assert (off["is_active"], off["off_reason"]) == (False, "person")
    listed = {line["id"]: line for line in command(rig, "list")}
    assert made["id"] in listed
    assert "secret" not in listed[made["id"]]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("replay",), "Name a delivery"),
        (("replay", "00000000-0000-0000-0000-000000000000"), "There is no delivery"),
        (("add", "http://10.0.0.1:8080/"), "not on the public Internet"),
        (("add", "http://127.0.0.1:9009/", "--event", "payment.stolen"), "one or more of"),
        (("add", "http://127.0.0.1:9009/", "--shop", "5"), "has no payment routing"),
        (("change", "00000000-0000-0000-0000-000000000000"), "Say what to change"),
        (("test", "00000000-0000-0000-0000-000000000000"), "There is no webhook endpoint"),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_told_in_a_sentence(rig: Rig, words: tuple[str, ...], sentence: str) -> None:
    done = rig.run("webhooks", *words)
    assert (done.returncode, done.stdout) == (1, "")
    assert sentence in done.stderr
