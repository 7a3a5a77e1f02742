"""E-mail: one message, once, over SMTP. A repeated message has the Message-ID of the first, so mailboxes show one."""

import asyncio
import contextlib
import re
from email.header import Header
from email.mime.text import MIMEText
from email.utils import formatdate
from typing import Final

import aiosmtplib
from aiosmtplib import SMTPDataError, SMTPException, SMTPRecipientsRefused, SMTPResponseException

from payment_service.notifications.channel import ChatGone, Delivery, Refused, Sent, TryAgain, shortened
from payment_service.notifications.settings import EmailSettings
from payment_service.notifications.texts import Note
from payment_service.outbound.connection import open_socket
from payment_service.outbound.lookups import LookUps, ask_system_resolver

DEADLINE_S: Final = 20
CONNECT_TIMEOUT_S: Final = 10
_QUIT_TIMEOUT_S: Final = 2
_ADDRESS: Final = re.compile(r"""[^\s@,:;<>()\[\]"\\]+@[^\s@,:;<>()\[\]"\\]+""")
_ENHANCED: Final = re.compile(r"[245]\.(\d{1,3}\.\d{1,3})\b")
_NO_MAILBOX: Final = frozenset({550, 551, 553})
_NOT_THE_ADDRESS: Final = frozenset({"1.7", "1.8", "2.2", "2.3", "2.4"})
"""The sender's address, a full mailbox, a message that is too long, a list: RFC 3463."""


class Email:
    """Messages from one sender."""

    chat_pause_s = 1.0
    pause_s = 0.1

    def __init__(self, settings: EmailSettings) -> None:
        self._server = settings.server
        self._sender = settings.sender
        self._look_up = LookUps(ask_system_resolver)
        self._domain = settings.sender.rpartition("@")[2]

    async def send(self, address: str, note: Note, *, key: str) -> Delivery:
        """Send once. A lost answer is ``TryAgain``: see the module ``channel``."""
        try:
            message = written(note)
            message["From"], message["To"] = self._sender, _one_address(address)
            message["Message-ID"] = f"<{key}@{self._domain}>"
            await self._hand_over(message)
        except Exception as error:  # noqa: BLE001 - whatever failed, it is not known to have been accepted
            return _read(error, address)
        return Sent()

    async def close(self) -> None:
        """Nothing is kept open."""

    async def _hand_over(self, message: MIMEText) -> None:
        server = self._server
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            # Not by aiosmtplib, which waits for the first address alone: of a host's IPv6 nothing may come back.
            sock = await open_socket(await self._look_up(server.host), server.port, CONNECT_TIMEOUT_S)
        client = aiosmtplib.SMTP(
            hostname=server.host,
            sock=sock,
            username=server.username,
            password=server.password,
            use_tls=server.tls,
            start_tls=server.start_tls,
            timeout=DEADLINE_S,
            local_hostname=self._domain,
        )
        try:
            async with asyncio.timeout(DEADLINE_S):
                await client.connect()
                await client.send_message(message)
            # It was accepted, however the connection ends and however long that takes.
            with contextlib.suppress(SMTPException):
                await client.quit(timeout=_QUIT_TIMEOUT_S)
        finally:
            client.close()


def written(note: Note) -> MIMEText:
    """A note as plain text, its first line as the subject."""
    link = f"{note.link_label}: {note.link}" if note.link else None
    message = MIMEText("\n\n".join(part for part in (note.line, note.advice, link) if part) + "\n", "plain", "utf-8")
    # Always encoded. An EmailMessage decodes encoded words in what it is given: an order's number may hold one that
    # stands for a line break, and what follows it would be headers.
    message["Subject"] = Header(_subject(note), "utf-8", header_name="Subject").encode()
    message["Date"] = formatdate()
    return message


def _one_address(address: str) -> str:
    if not _ADDRESS.fullmatch(address):  # it would be read as two, or as none
        raise ValueError("not the address of one mailbox")
    return address


def _subject(note: Note) -> str:
    return " ".join(note.line.splitlines())  # a shop's name may hold a line separator


def _read(error: Exception, address: str) -> Delivery:
    if isinstance(error, SMTPRecipientsRefused) and error.recipients:
        error = error.recipients[0]
        if error.code in _NO_MAILBOX and _is_of_address(error.message):
            return ChatGone(_reason(error, address))
    if isinstance(error, SMTPDataError) and error.code >= 500:
        return Refused(_reason(error, address))
    # What is refused before the message was given is about us: a password, our sender's address, a relay that does not
    # know us. It is ours to correct; then the message is sent.
    return TryAgain(_reason(error, address))


def _is_of_address(message: str) -> bool:
    """Whether a refusal is about the address (X.1.X, X.2.X: RFC 3463), not about the sender or the message."""
    enhanced = _ENHANCED.search(message)
    return enhanced is None or (enhanced[1].startswith(("1.", "2.")) and enhanced[1] not in _NOT_THE_ADDRESS)


def _reason(error: Exception, address: str) -> str:
    if not isinstance(error, SMTPResponseException):
        return f"email: {type(error).__name__}"
    return shortened(f"email: {error.code} {error.message}".replace(address, "[address]"))
