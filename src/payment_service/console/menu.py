"""The menu of the console: its pages, and the right that each needs."""

from dataclasses import dataclass
from typing import Final

from payment_service.access.people import Right
from payment_service.access.sessions import SignedIn
from payment_service.languages import mark


@dataclass(frozen=True, slots=True)
class Entry:
    """A page of the menu. ``here`` is the name that its template sets."""

    here: str
    path: str
    label: str
    needs: Right = Right.READ


MENU: Final = (
    Entry("search", "/console", mark("Search")),
    Entry("tasks", "/console/tasks", mark("Tasks")),
    Entry("sellers", "/console/sellers", mark("Sellers")),
    Entry("sums", "/console/sums", mark("Sums")),
    Entry("record", "/console/record", mark("Record"), Right.RECORD),
    Entry("webhooks", "/console/webhooks", mark("Webhooks"), Right.DELIVER),
    Entry("messages", "/console/messages", mark("Messages"), Right.DELIVER),
    Entry("keys", "/console/keys", mark("Keys"), Right.ADMINISTER),
    Entry("people", "/console/people", mark("People"), Right.ADMINISTER),
    Entry("health", "/console/health", mark("Health"), Right.HEALTH),
)
"""In this order: the first ones are in the bar, the others under "More"."""
ALWAYS: Final = 2
"""How many are in the bar on a phone."""
WHERE_IT_FITS: Final = 4
"""How many are in the bar on a large screen."""


def menu_of(me: SignedIn) -> list[Entry]:
    """The pages that somebody may open."""
    return [entry for entry in MENU if me.may(entry.needs)]
