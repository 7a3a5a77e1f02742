"""What every channel to people offers, and the results of a send. A channel never raises and never repeats.

A message may come twice and is never lost: when the answer to a send is lost, it is not known whether the message
arrived, and it is sent again. A repeated "paid 17 500" names the same order; a lost one is an order that nobody
prepares. Where the channel recognises repetitions (e-mail, by its Message-ID), none is shown.
"""

from dataclasses import dataclass
from typing import Final, Protocol

from payment_service.characters import one_line
from payment_service.notifications.texts import Note

REASON_LENGTH: Final = 200
SETTING_OF: Final = {"telegram": "TELEGRAM_BOT_TOKEN", "email": "SMTP_URL"}
"""The setting that sets up each channel."""


@dataclass(frozen=True, slots=True)
class Sent:
    """The channel accepted the message."""

    message_id: str | None = None
    """The channel's own id of it."""


@dataclass(frozen=True, slots=True)
class TryAgain:
    """Not accepted, or not known to be: it is sent again, after ``after_s`` seconds where the channel said so."""

    reason: str
    after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """The channel will never accept this message; it may accept another one to the same chat."""

    reason: str


@dataclass(frozen=True, slots=True)
class ChatGone:
    """Nothing reaches this chat until a person has corrected it."""

    reason: str


@dataclass(frozen=True, slots=True)
class ChatMoved:
    """The chat has another address from now on; the message was not accepted."""

    address: str


Delivery = Sent | TryAgain | Refused | ChatGone | ChatMoved


class Channel(Protocol):
    """One way to reach people."""

    @property
    def chat_pause_s(self) -> float:
        """The least time between two messages to one chat, in seconds."""

    @property
    def pause_s(self) -> float:
        """The least time between two messages to anybody, in seconds."""

    async def send(self, address: str, note: Note, *, key: str) -> Delivery:
        """Send once. ``key`` is the same whenever the same message is sent."""

    async def close(self) -> None:
        """Close every connection."""


Channels = dict[str, Channel]
"""The channels that are set up, by name."""


def shortened(reason: str) -> str:
    """A reason given by the other side, cut to fit a row and a log line."""
    return one_line(reason)[:REASON_LENGTH]
