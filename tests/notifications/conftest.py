"""The two ends of the wire to people: the stand-in Bot API as a process; the mail server is everybody's."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from payment_service.notifications.channel import Channel
from payment_service.notifications.settings import TelegramSettings
from payment_service.notifications.telegram import Telegram
from payment_service.settings import Settings
from tests.support.mailbox import Mailbox
from tests.support.processes import Process, clean_environment, free_port

TOKEN = "42:stand-in-token-of-the-tests"
CHAT = "-100123"


@dataclass
class BotApi:
    """The stand-in, and what tests ask of it."""

    program: Process
    client: httpx.AsyncClient

    @property
    def url(self) -> str:
        return self.program.url

    async def goes_wrong(self, course: str, **rule: Any) -> None:
        (await self.client.post("/_rules", json={"course": course, **rule})).raise_for_status()

    async def messages(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self.client.get("/_messages")).json()
        return found

    async def calls(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self.client.get("/_calls")).json()
        return found

    async def texts(self) -> list[str]:
        return [message["text"] for message in await self.messages()]


@pytest.fixture(scope="session")
async def bot_api_process(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[BotApi]:
    folder, port = tmp_path_factory.mktemp("bot_api"), free_port()
    words = ["kaspi_sandbox.telegram", "--port", str(port)]
    environment = clean_environment(folder, TELEGRAM_BOT_TOKEN=TOKEN)
    program = Process(words, environment=environment, folder=folder, name="telegram", port=port)
    try:
        await program.ready("/health")
        # A new connection each time: a kept one may be closed by its server just as a request leaves.
        limits = httpx.Limits(max_keepalive_connections=0)
        async with httpx.AsyncClient(base_url=program.url, trust_env=False, limits=limits) as client:
            yield BotApi(program, client)
    finally:
        await program.stop()
    assert TOKEN not in program.written


@pytest.fixture
async def bot_api(bot_api_process: BotApi) -> BotApi:
    """The stand-in Bot API, with nothing sent yet."""
    await bot_api_process.client.post("/_reset")
    return bot_api_process


@pytest.fixture
async def telegram(bot_api: BotApi) -> AsyncIterator[Channel]:
    channel = Telegram(TelegramSettings(TOKEN, bot_api.url))
    yield channel
    await channel.close()


@pytest.fixture
def settings(settings: Settings, bot_api: BotApi, mailbox: Mailbox) -> Settings:
    """Settings with both channels set up."""
    return settings.model_copy(
        update={
            "telegram_bot_token": SecretStr(TOKEN),
            "telegram_api_url": bot_api.url,
            "smtp_url": SecretStr(f"smtp://127.0.0.1:{mailbox.port}"),
            "smtp_from": "pay@example.kz",
            "console_url": "https://pay.example.kz",
        }
    )
