"""A mail server inside the test: it keeps what came, or answers what the test says."""

import asyncio
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from typing import Any

from aiosmtpd.smtp import SMTP, Envelope, Session


@dataclass
class Mailbox:
    """A mail server's handler."""

    port: int
    mails: list[Any] = field(default_factory=list)
    answer_to_address: str = "250 OK"
    answer_to_data: str = "250 OK"
    """``{end}`` of it becomes the last word of the mail."""
    breaks_off: bool = False

    def empty(self) -> None:
        """Forget the mails, and what the last test said."""
        self.mails.clear()
        self.answer_to_address = self.answer_to_data = "250 OK"
        self.breaks_off = False

    async def handle_RCPT(  # noqa: N802 - the name that aiosmtpd calls
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if self.answer_to_address.startswith("250"):
            envelope.rcpt_tos.append(address)
        return self.answer_to_address

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802 - as above
        if self.answer_to_data.startswith("250"):
            self.mails.append(envelope)
        if self.breaks_off and isinstance(server.transport, asyncio.Transport):
            server.transport.abort()
        return self.answer_to_data.replace("{end}", read(envelope).get_content().split()[-1])


def read(envelope: Any) -> Any:
    """The mail in an envelope."""
    return message_from_bytes(envelope.content, policy=policy.default)
