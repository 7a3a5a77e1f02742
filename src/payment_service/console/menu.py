"""The menu of the console: which pages there are, and who is shown them."""

from dataclasses import dataclass
from typing import Final

from payment_service.access.people import Right
from payment_service.access.sessions import SignedIn
from payment_service.languages import mark


@dataclass(frozen=True, slots=True)
class Entry:
    """A page of the menu. ``here`` is what its template calls itself."""

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
"""In their order: the first ones stand in the bar, the others under "More"."""
ALWAYS: Final = 2
"""So many stand in the bar of a phone too."""
WHERE_IT_FITS: Final = 4
"""So many stand in the bar of a large screen."""


def menu_of(me: SignedIn) -> list[Entry]:
    """The pages that somebody may open."""
    return [entry for entry in MENU if me.may(entry.needs)]
