"""E-mail: one message, once, over SMTP. A repeated message has the Message-ID of the first, so mailboxes show one."""

import asyncio
import contextlib
import re
from email.message import EmailMessage
from typing import Final

import aiosmtplib
from aiosmtplib import SMTPException, SMTPRecipientsRefused, SMTPResponseException

from payment_service.notifications.channel import ChatGone, Delivery, Refused, Sent, TryAgain, shortened
from payment_service.notifications.settings import EmailSettings
from payment_service.notifications.texts import Note

DEADLINE_S: Final = 20
_ENHANCED: Final = re.compile(r"[245]\.\d{1,3}\.\d{1,3}\b")
_NO_MAILBOX: Final = frozenset({550, 551, 553})


class Email:
    """Messages from one sender."""

    chat_pause_s = 1.0
    pause_s = 0.1

    def __init__(self, settings: EmailSettings) -> None:
        self._server = settings.server
        self._sender = settings.sender
        self._domain = settings.sender.rpartition("@")[2]

    async def send(self, address: str, note: Note, *, key: str) -> Delivery:
        """Send once. A lost answer is ``TryAgain``: see the module ``channel``."""
        try:
            message = written(note)
            message["From"], message["To"] = self._sender, address
            message["Message-ID"] = f"<{key}@{self._domain}>"
            async with asyncio.timeout(DEADLINE_S):
                await self._hand_over(message)
        except Exception as error:  # noqa: BLE001 - whatever failed, it is not known to have been accepted
            return _read(error, address)
        return Sent()

    async def close(self) -> None:
        """Nothing is kept open."""

    async def _hand_over(self, message: EmailMessage) -> None:
        server = self._server
        client = aiosmtplib.SMTP(
            hostname=server.host,
            port=server.port,
            username=server.username,
            password=server.password,
            use_tls=server.tls,
            start_tls=server.start_tls,
            timeout=DEADLINE_S,
            local_hostname=self._domain,
        )
        await client.connect()
        try:
            await client.send_message(message)
            # It was accepted, however the connection ends.
            with contextlib.suppress(SMTPException):
                await client.quit()
        finally:
            client.close()


def written(note: Note) -> EmailMessage:
    """A note as plain text, its first line as the subject."""
    message = EmailMessage()
    message["Subject"] = " ".join(note.line.splitlines())  # a shop's name may hold a line separator
    link = f"{note.link_label}: {note.link}" if note.link else None
    message.set_content("\n\n".join(part for part in (note.line, note.advice, link) if part) + "\n")
    return message


def _read(error: Exception, address: str) -> Delivery:
    if isinstance(error, SMTPRecipientsRefused) and error.recipients:
        error = error.recipients[0]
        if error.code in _NO_MAILBOX and _is_of_address(error.message):
            return ChatGone(_reason(error, address))
    if isinstance(error, aiosmtplib.SMTPAuthenticationError):
        # A wrong password is ours to correct; then the message is sent.
        return TryAgain(_reason(error, address))
    if isinstance(error, SMTPResponseException) and error.code >= 500:
        return Refused(_reason(error, address))
    return TryAgain(_reason(error, address))


def _is_of_address(message: str) -> bool:
    """Whether a refusal is about the address (X.1.X, X.2.X: RFC 3463), not about the sender or the message."""
    enhanced = _ENHANCED.search(message)
    return enhanced is None or enhanced[0].split(".")[1] in {"1", "2"}


def _reason(error: Exception, address: str) -> str:
    if not isinstance(error, SMTPResponseException):
        return f"email: {type(error).__name__}"
    return shortened(f"email: {error.code} {error.message}".replace(address, "[address]"))
