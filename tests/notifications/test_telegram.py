"""The Bot API over a real socket: what is taken, what is tried again, what ends a chat, where the token never is."""

import asyncio
import logging

import pytest

from payment_service.notifications import telegram as module
from payment_service.notifications.channel import Channel, ChatGone, ChatMoved, Delivery, Refused, Sent, TryAgain
from payment_service.notifications.settings import TelegramSettings
from payment_service.notifications.telegram import Telegram
from payment_service.notifications.texts import Note
from payment_service.observability.logs import scrub
from tests.notifications.conftest import CHAT, TOKEN, BotApi
from tests.support.processes import free_port

NOTE = Note("Оплачено 1 ₸", ("<Rosalie> & Co",), "совет", "https://pay.example.kz/console/payments/1", "Открыть")


async def test_message_is_taken_and_its_id_is_told(bot_api: BotApi, telegram: Channel) -> None:
    sent = await telegram.send(CHAT, NOTE, key="k")
    [message] = await bot_api.messages()
    assert sent == Sent(str(message["message_id"]))
    assert (message["chat_id"], message["text"]) == (CHAT, module.written(NOTE))


async def test_wait_that_the_bot_api_asks_for_is_told(bot_api: BotApi, telegram: Channel) -> None:
    await bot_api.goes_wrong("too_many", value=34)
    delivery = await telegram.send(CHAT, NOTE, key="k")
    assert isinstance(delivery, TryAgain)
    assert delivery.after_s == 34
    assert await bot_api.messages() == []


@pytest.mark.parametrize(
    ("course", "kind", "words"),
    [
        ("blocked", ChatGone, "bot was blocked by the user"),
        ("not_found", ChatGone, "chat not found"),
        ("bad_text", Refused, "can't parse entities"),
        ("failing", TryAgain, "502"),
        ("dropped", TryAgain, "ReadError"),
        ("lost", TryAgain, "ReadError"),
    ],
)
async def test_every_answer_has_its_meaning(
    bot_api: BotApi, telegram: Channel, course: str, kind: type, words: str
) -> None:
    await bot_api.goes_wrong(course)
    delivery = await telegram.send(CHAT, NOTE, key="k")
    assert isinstance(delivery, kind)
    assert words in str(delivery)


async def test_group_that_became_a_supergroup_has_moved(bot_api: BotApi, telegram: Channel) -> None:
    await bot_api.goes_wrong("moved", value=-1009876543210)
    assert await telegram.send(CHAT, NOTE, key="k") == ChatMoved("-1009876543210")


async def test_endless_text_is_refused_and_not_tried_again(telegram: Channel) -> None:
    assert isinstance(await telegram.send(CHAT, Note("x" * 5000), key="k"), Refused)


async def test_wrong_token_is_ours_to_put_right_and_loses_no_message(bot_api: BotApi) -> None:
    channel = Telegram(TelegramSettings("43:revoked", bot_api.url))
    delivery = await channel.send(CHAT, NOTE, key="k")
    await channel.close()
    assert delivery == TryAgain("telegram: 401 Unauthorized")


async def test_nobody_there_is_tried_again() -> None:
    channel = Telegram(TelegramSettings(TOKEN, f"http://127.0.0.1:{free_port()}"))
    assert await channel.send(CHAT, NOTE, key="k") == TryAgain("telegram: ConnectError")
    await channel.close()


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnull",
        b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>",
        b'HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n{"ok":true',
        b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
        b'HTTP/1.1 429 Slow\r\nContent-Length: 34\r\n\r\n{"parameters":{"retry_after":"x"}} ',
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n[]",
        b"HTTP/1.1 200 OK\r\nContent-Length: 70000\r\n\r\n" + b" " * 70000,
        b"no HTTP at all\r\n\r\n",
    ],
)
async def test_strange_reply_is_tried_again(reply: bytes) -> None:
    delivery = await answered_by(reply)
    assert isinstance(delivery, TryAgain)
    assert TOKEN not in str(delivery)


async def answered_by(reply: bytes) -> Delivery:
    """What a message comes to at a server that gives this reply."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(reply)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        channel = Telegram(TelegramSettings(TOKEN, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"))
        delivery = await channel.send(CHAT, NOTE, key="k")
        await channel.close()
    return delivery


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (429, '{"parameters":{"retry_after":NaN}}', TryAgain("telegram: 429", 30)),
        (429, '{"parameters":{"retry_after":1%s}}' % ("0" * 400), TryAgain("telegram: 429", 86400)),
        (429, '{"parameters":{"retry_after":1e999}}', TryAgain("telegram: 429", 86400)),
        (400, '{"parameters":{"migrate_to_chat_id":true}}', Refused("telegram: 400")),
        (400, '{"parameters":{"migrate_to_chat_id":1%s}}' % ("0" * 400), Refused("telegram: 400")),
        (200, '{"ok":true,"result":{"message_id":"%s"}}' % ("x" * 400), Sent()),
        (200, '{"ok":true,"result":{"message_id":1%s}}' % ("0" * 400), Sent()),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_number_that_cannot_be_is_none_and_can_be_written(status: int, body: str, expected: Delivery) -> None:
    assert await answered_by(f"HTTP/1.1 {status} X\r\n\r\n{body}".encode()) == expected


async def test_silence_ends_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DEADLINE_S", 0.1)
    hung_up = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        hung_up.set()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with server:
        channel = Telegram(TelegramSettings(TOKEN, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"))
        assert isinstance(await channel.send(CHAT, NOTE, key="k"), TryAgain)
        await channel.close()
        await asyncio.wait_for(hung_up.wait(), 10)


async def test_token_is_in_no_delivery_no_log_and_no_repr(
    bot_api: BotApi, telegram: Channel, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        for course in ("too_many", "blocked", "not_found", "bad_text", "failing", "lost"):
            await bot_api.goes_wrong(course)
            assert TOKEN not in repr(await telegram.send(CHAT, NOTE, key="k"))
    assert TOKEN not in repr(telegram)
    assert TOKEN not in scrub(f"POST {bot_api.url}/bot{TOKEN}/sendMessage")
