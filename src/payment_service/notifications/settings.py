"""The settings of the channels to people."""

from dataclasses import dataclass, field
from typing import Final

from payment_service.notifications.smtp import SmtpServer

BOT_API: Final = "https://api.telegram.org"


@dataclass(frozen=True, slots=True)
class TelegramSettings:
    """The bot that sends the messages, and where its Bot API is."""

    token: str = field(repr=False)
    api_url: str = BOT_API


@dataclass(frozen=True, slots=True)
class EmailSettings:
    """The mail server and the sender's address."""

    server: SmtpServer
    sender: str
