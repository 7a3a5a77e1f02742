"""One-time links of people, sent to the e-mail address of their account: at once, and once.

A link is as good as a password, and only its digest is stored. So it is not queued: to be sent later, it would have to
be stored. One that could not be sent is shown to the administrator, as without e-mail, and a new link ends it. It goes
to the account's address alone: chats are bound to shops, and may be read by several people. Replies of the mail server
are not stored, since they may quote the mail.
"""

import asyncio
from dataclasses import dataclass, field, replace
from typing import Final

from payment_service.access.models import Person
from payment_service.access.people import People
from payment_service.identifiers import new_id
from payment_service.languages import Language
from payment_service.notifications.channel import Sent
from payment_service.notifications.service import Notifications
from payment_service.notifications.texts import note_of_link

CHANNEL: Final = "email"


@dataclass(frozen=True, slots=True)
class MadeLink:
    """A link that was made."""

    address: str = field(repr=False)
    """The whole link: a secret."""
    is_sent: bool = False
    """Whether it was sent to the account's e-mail address. If not, it has to be shown."""
    problem: str | None = None
    """Why it could not be sent, or is not known to have been."""


@dataclass(frozen=True, slots=True)
class Links:
    """Makes links that set a password, and sends them."""

    people: People
    notifications: Notifications

    @property
    def can_be_sent(self) -> bool:
        """Whether e-mail is set up, and CONSOLE_URL, which a whole link begins with."""
        return CHANNEL in self.notifications.channels and self.notifications.console_url is not None

    async def make(self, person_id: int, *, site: str = "") -> MadeLink | None:
        """Make a link, to be shown; none when there is no account to use it.

        ``site`` is where the console is when ``CONSOLE_URL`` does not say it; without both the address is only a path.
        """
        token = await self.people.link(person_id)
        return None if token is None else MadeLink(f"{self.notifications.console_url or site}/console/link/{token}")

    async def send(self, person: Person, language: Language) -> MadeLink | None:
        """Make a link and send it, once; none when there is no account to use it. Only where it ``can_be_sent``."""
        made = await self.make(person.id)
        if made is None:
            return None
        note = await asyncio.to_thread(note_of_link, person.name, made.address, language)
        delivery = await self.notifications.send_once(CHANNEL, person.email, note, str(new_id()))
        problem = None if isinstance(delivery, Sent) else _first_words(getattr(delivery, "reason", CHANNEL))
        await self.people.record_sending(person.id, problem or f"{CHANNEL}: sent")
        return replace(made, is_sent=problem is None, problem=problem)


def _first_words(reason: str) -> str:
    """The code of a reply or the name of an error; what follows is the mail server's own text."""
    return " ".join(reason.split()[:2])
