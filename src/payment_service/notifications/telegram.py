"""Telegram: one call of the Bot API per message, once, within a total deadline.

The bot's token is part of every address, so no address and no error's own text ever leaves this module.
"""

import asyncio
import contextlib
import html
import json
from typing import Any, Final

import httpx

from payment_service.notifications.channel import ChatGone, ChatMoved, Delivery, Refused, Sent, TryAgain, shortened
from payment_service.notifications.settings import TelegramSettings
from payment_service.notifications.texts import Note
from payment_service.outbound.tls import trusted_authorities
from payment_service.outbound.transport import Transport

DEADLINE_S: Final = 10
CONNECT_TIMEOUT_S: Final = 5
MAX_REPLY_BYTES: Final = 64 * 1024
DEFAULT_RETRY_AFTER_S: Final = 30.0
"""How long to wait when the Bot API limits the rate without saying for how long."""
MAX_RETRY_AFTER_S: Final = 86400.0
_HEADERS: Final = {"Accept-Encoding": "identity", "User-Agent": "payment-service"}
_KEPT: Final = 4
"""How many connections are kept for the next message. A message that a broken one lost is sent again."""
_GONE: Final = (
    "chat not found",
    "user not found",
    "peer_id_invalid",
    "chat_write_forbidden",
    "not enough rights",
    "no rights to send",
    "is deactivated",
    "was deactivated",
    "was kicked",
    "channel_private",
)
"""Descriptions of status 400 that are about the chat, not the message."""


class Telegram:
    """Messages of one bot."""

    chat_pause_s = 1.0  # core.telegram.org/bots/faq: one message a second in a chat ...
    pause_s = 1 / 30  # ... and thirty a second in all

    def __init__(self, settings: TelegramSettings) -> None:
        self._token = settings.token
        self._url = httpx.URL(settings.api_url)
        self._target = self._url.raw_path.rstrip(b"/") + f"/bot{settings.token}/sendMessage".encode()
        self._transport = Transport(self._url, trusted_authorities(), keep=_KEPT)

    async def send(self, address: str, note: Note, *, key: str) -> Delivery:  # noqa: ARG002 - the Bot API knows no key
        """Send once. A lost answer is ``TryAgain``: see the module ``channel``."""
        body = {
            "chat_id": address,
            "text": written(note),
            "parse_mode": "HTML",
            "link_preview_options": {"is_disabled": True},
        }
        try:
            async with asyncio.timeout(DEADLINE_S):
                status, reply = await self._post(body)
        except Exception as error:  # noqa: BLE001 - whatever failed, it is not known to have been accepted
            # Never the error's text: it may hold the address.
            return TryAgain(f"telegram: {type(error).__name__}")
        return self._read(status, reply)

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.aclose()

    async def _post(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        extensions = {
            "target": self._target,  # not in the URL, which libraries log
            "timeout": {"connect": CONNECT_TIMEOUT_S},
        }
        request = httpx.Request("POST", self._url, json=body, headers=_HEADERS, extensions=extensions)
        response = await self._transport.handle_async_request(request)
        async with contextlib.aclosing(response):
            text = bytearray()
            async for chunk in response.aiter_raw():
                text += chunk
                if len(text) > MAX_REPLY_BYTES:
                    raise ValueError("the reply is too long")
        try:
            reply = json.loads(text)
        except ValueError:
            reply = None
        return response.status_code, reply if isinstance(reply, dict) else {}

    def _read(self, status: int, reply: dict[str, Any]) -> Delivery:
        if status == 200 and reply.get("ok") is True:
            result = reply.get("result")
            message_id = _id(result.get("message_id")) if isinstance(result, dict) else None
            return Sent(message_id)
        description = str(reply.get("description", "")).replace(self._token, "[hidden]")
        reason = shortened(f"telegram: {status} {description}")
        parameters = reply.get("parameters")
        parameters = parameters if isinstance(parameters, dict) else {}
        moved_to = _id(parameters.get("migrate_to_chat_id"))
        match status:
            case 429:
                return TryAgain(reason, _seconds(parameters.get("retry_after")))
            case 403:
                return ChatGone(reason)
            case 400 if moved_to is not None:
                return ChatMoved(moved_to)
            case 400 if any(words in description.lower() for words in _GONE):
                return ChatGone(reason)
            case 400 | 413:
                return Refused(reason)
            case _:
                # 401 and 404 are a wrong token, ours to correct; then the message is sent.
                return TryAgain(reason)


def written(note: Note) -> str:
    """A note in Telegram's HTML."""
    facts = "".join(f" · {html.escape(fact)}" for fact in note.facts)
    lines = [f"<b>{html.escape(note.headline)}</b>{facts}"]
    if note.advice:
        lines.append(html.escape(note.advice))
    if note.link:
        lines.append(f'<a href="{html.escape(note.link)}">{html.escape(note.link_label)}</a>')
    return "\n".join(lines)


def _id(value: object) -> str | None:
    """A number of Telegram's; none for what is none, which could not be written."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63 else None


def _seconds(value: object) -> float:
    if not isinstance(value, int | float) or not value > 0:  # nor NaN
        return DEFAULT_RETRY_AFTER_S
    return float(min(value, MAX_RETRY_AFTER_S))
