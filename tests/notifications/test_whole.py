"""The whole service as processes: bound by command, paid at the stand-in proxy, read at the stand-in Bot API."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from tests.notifications.conftest import TOKEN, BotApi
from tests.support.database import Server
from tests.support.rig import Rig
from tests.support.waiting import until

pytestmark = pytest.mark.xdist_group("notify")

SHOP = 121038


@pytest.fixture(scope="module")
async def rig(
    server: Server, worker_id: str, tmp_path_factory: pytest.TempPathFactory, bot_api_process: BotApi
) -> AsyncIterator[Rig]:
    """A service and a worker that know the stand-in Bot API."""
    rig = Rig(tmp_path_factory.mktemp("people"), await server.make(f"people_{worker_id}"))
    rig.secrets.add(TOKEN)
    async with rig:
        rig.services = [await rig.serve(**people(bot_api_process))]
        rig.clients = [rig.client(rig.services[0])]
        rig.workers = [rig.start_worker(**people(bot_api_process))]
        await rig.route_all()
        yield rig


def people(bot_api: BotApi) -> dict[str, str]:
    return {
        "TELEGRAM_BOT_TOKEN": TOKEN,
        "TELEGRAM_API_URL": bot_api.url,
        "CONSOLE_URL": "https://pay.example.kz",
        "METRICS_PUBLIC": "true",
    }


@asynccontextmanager
async def connected(rig: Rig) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(rig.database_url)
    try:
        yield connection
    finally:
        await connection.close()


async def told(bot_api: BotApi, *words: str) -> list[str]:
    """The texts that hold each of these words, once there is one for each."""

    async def there() -> list[str]:
        found = [text for text in await bot_api.texts() if any(word in text for word in words)]
        return found if all(any(word in text for text in found) for word in words) else []

    return await until(there, f"people are told of {words}", within_s=20)


async def test_staff_learn_of_a_payment_as_soon_as_it_is_paid(rig: Rig, bot_api: BotApi) -> None:
    made = rig.run(
        *("notify", "add", "--shop", str(SHOP), "--chat", "-100123", "--channel", "telegram", "--json"),
        *("--events", "payment.paid,payment.unknown", "--language", "ru"),
    )
    assert made.returncode == 0, made.stderr
    payment = await rig.paid(order_id="A-12345", amount=17500.5)
    [text] = await told(bot_api, "A-12345")
    assert text.replace("\N{NO-BREAK SPACE}", " ").startswith("<b>Оплачено 17 500,50 ₸</b> · ")
    assert f"https://pay.example.kz/console/payments/{payment['id']}" in text


async def test_chat_that_blocked_the_bot_is_shown_and_a_test_brings_it_back(rig: Rig, bot_api: BotApi) -> None:
    made = rig.run("notify", "add", "--chat", "-200", "--events", "payment.paid", "--json")
    binding_id = str(json.loads(made.stdout)[0]["id"])
    await bot_api.goes_wrong("blocked", chat_id="-200")
    failed = rig.run("notify", "test", binding_id, **people(bot_api))
    assert (failed.returncode, "bot was blocked by the user" in failed.stderr) == (1, True)
    [shown] = [row for row in json.loads(rig.run("notify", "list", "--json").stdout) if row["id"] == binding_id]
    assert "bot was blocked" in shown["disabled"]
    tried = rig.run("notify", "test", binding_id, "--json", **people(bot_api))
    assert json.loads(tried.stdout)[0]["disabled"] is None
    await rig.api.delete(f"/admin/notify/{binding_id}")


async def test_worker_that_is_killed_loses_no_message(rig: Rig, bot_api: BotApi) -> None:
    orders = []
    for shop_id in (75509, 69292, 49237, 56195):  # a chat each, so that no message waits for the one before it
        chat = {"channel": "telegram", "address": f"-{shop_id}", "shop_id": shop_id, "events": ["payment.paid"]}
        (await rig.api.post("/admin/notify", json=chat)).raise_for_status()
        payment = await rig.paid(shop_id, order_id=f"killed-{shop_id}")
        orders.append(payment["order_id"])
        await rig.api.get(f"/payments/kaspi/status/{payment['external_id']}")
    await rig.workers[0].kill()
    async with connected(rig) as connection:  # as when the lease of what it was sending has ended
        await connection.execute("UPDATE notify_chat SET next_send_at = now() WHERE next_send_at > now()")
    rig.workers = [rig.start_worker(**people(bot_api))]
    await told(bot_api, *orders)


async def test_token_is_in_no_row_and_no_metric(rig: Rig) -> None:
    async with connected(rig) as connection:
        tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        for row in tables:
            for line in await connection.fetch(f'SELECT whole::text FROM "{row["tablename"]}" AS whole'):
                assert TOKEN not in line["whole"], row["tablename"]
    assert TOKEN not in (await rig.api.get("/metrics")).text
