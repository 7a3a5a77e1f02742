"""The texts of messages, in the reader's language: a line of facts, a sentence if something is to be done, a link.

Pure: from an event's data to a note; each channel renders a note in its own way. A phone is its last four digits.
"""

import gettext
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit

from payment_service.almaty import ALMATY
from payment_service.events.outbox import EventType
from payment_service.languages import Language, catalogue, mark
from payment_service.money import TIYN_PER_TENGE, Money

LATE_AFTER: Final = timedelta(minutes=5)
"""A message that is later than this shows the time of its event."""
NO_BREAK: Final = "\N{NO-BREAK SPACE}"
Say: TypeAlias = Callable[[str], str]
"""Translates a text."""
_FACT_LENGTH: Final = 200


@dataclass(frozen=True, slots=True)
class Note:
    """A message as plain text in parts."""

    headline: str
    facts: tuple[str, ...] = ()
    advice: str | None = None
    link: str | None = None
    link_label: str = ""

    @property
    def line(self) -> str:
        """The headline and the facts in one line."""
        return " · ".join((self.headline, *self.facts))


HEADLINES: Final[Mapping[EventType, str]] = {
    EventType.PAYMENT_PENDING: mark("Waiting for payment"),
    EventType.PAYMENT_PAID: mark("Paid"),
    EventType.PAYMENT_FAILED: mark("Not paid"),
    EventType.PAYMENT_CANCELLED: mark("Invoice cancelled"),
    EventType.PAYMENT_UNKNOWN: mark("Outcome of the payment unknown"),
    EventType.PAYMENT_LATE_SUCCESS: mark("Paid late"),
    EventType.REFUND_SUCCEEDED: mark("Refunded"),
    EventType.REFUND_FAILED: mark("Refund failed"),
    EventType.REFUND_UNKNOWN: mark("Outcome of the refund unknown"),
    EventType.ROUTE_PROPOSED: mark("A change of the receiving account waits for a second administrator"),
    EventType.ROUTE_REFUSED: mark("A change of the receiving account was refused"),
    EventType.ROUTE_CHANGED: mark("Receiving account changed"),
    EventType.ENDPOINT_DISABLED: mark("Webhook switched off"),
    EventType.ENDPOINT_RECOVERED: mark("Webhook works again"),
}
ADVICE: Final[Mapping[EventType, str]] = {
    EventType.PAYMENT_UNKNOWN: mark("Do not ask for it again: look the payment up by its code in the Kaspi cabinet."),
    EventType.PAYMENT_LATE_SUCCESS: mark("This payment was shown as failed before."),
    EventType.REFUND_UNKNOWN: mark("Do not refund it again: look in the Kaspi cabinet first."),
    EventType.ROUTE_PROPOSED: mark("Confirm or refuse it in the console. If you did not expect it, refuse it."),
    EventType.ROUTE_CHANGED: mark("If this was not you, look at once."),
    EventType.ENDPOINT_DISABLED: mark("The site is no longer notified of payments: correct the address."),
}


@dataclass(frozen=True, slots=True)
class EventFacts:
    """An event, and what its own data does not hold."""

    type: EventType
    data: Mapping[str, Any]
    shop_id: int | None
    shop_name: str | None
    at: datetime


def note_of(event: EventFacts, language: Language, *, now: datetime, console_url: str | None = None) -> Note:
    """The note about an event."""
    say, decimal, data = texts(language).gettext, _decimal(language), event.data
    headline = say(HEADLINES[event.type])
    advice = say(ADVICE[event.type]) if event.type in ADVICE else None
    match event.type.partition(".")[0]:
        case "payment":
            amount, facts, payment = data.get("amount"), _of_payment(event, data, say), data
            advice = advice or _text(data.get("error_message"))
        case "refund":
            payment = data.get("payment", {})
            amount, facts = data.get("amount"), _of_payment(event, payment, say)
            if amount != payment.get("amount"):
                facts = (say("of %(sum)s") % {"sum": money(payment.get("amount"), decimal)}, *facts)
            advice = advice or _text(data.get("error_message"))
        case "route":
            is_change = event.type is EventType.ROUTE_CHANGED
            facts = _of_route(event, say) if is_change else _of_proposal(event, say)
            amount, payment = None, {}
        case _:
            amount, facts, payment = None, _of_endpoint(data), {}
    if amount is not None:
        headline = f"{headline} {money(amount, decimal)}"
    if now - event.at > LATE_AFTER:
        facts = (*facts, say("at %(moment)s") % {"moment": f"{event.at.astimezone(ALMATY):%H:%M %d.%m.%Y}"})
    page = f"payments/{payment['id']}" if "id" in payment else None
    if event.type in {EventType.ROUTE_PROPOSED, EventType.ROUTE_REFUSED}:
        page = f"sellers/{event.shop_id}/changes/{data['id']}"
    link = f"{console_url}/console/{page}" if console_url and page else None
    return Note(headline, facts, advice, link, say("Open in the console"))


def note_of_test(language: Language) -> Note:
    """The note that tests whether a chat is reached."""
    say = texts(language).gettext
    return Note(say("Connection test"), advice=say("Messages about payments will come here."))


def note_of_link(name: str, link: str, language: Language) -> Note:
    """The note with a link that sets a person's password. Its first line holds nothing of the link."""
    say = texts(language).gettext
    advice = say(
        "Hello, %(name)s! The link sets your password. It works once, within a day. "
        "Do not pass it on. If you did not expect it, tell an administrator."
    )
    return Note(
        say("Signing in to the payments console"),
        advice=advice % {"name": _text(name)},
        link=link,
        link_label=say("Set the password"),
    )


def texts(language: Language) -> gettext.NullTranslations:
    """The texts of a language."""
    return catalogue("payment_service.notifications", language)


def money(tenge: float | None, decimal: str) -> str:
    """An amount of an event (the number that JSON shows, in tenge) as people read it: 17 500 ₸, or 17 500,50 ₸."""
    if tenge is None:
        return "?"
    # The shortest text of the number is exactly the amount (money.py, Money.number).
    whole, rest = divmod(Money.from_tenge(Decimal(str(tenge))).tiyn, TIYN_PER_TENGE)
    tiyn = f"{decimal}{rest:02d}" if rest else ""
    return f"{whole:,}".replace(",", NO_BREAK) + f"{tiyn}{NO_BREAK}₸"


def _decimal(language: Language) -> str:
    return "." if language is Language.EN else ","


def _of_payment(event: EventFacts, payment: Mapping[str, Any], say: Say) -> tuple[str, ...]:
    order, code, phone = (_text(payment.get(name)) for name in ("order_id", "short_code", "phone_last4"))
    # In the merchant cabinet a payment is found by the code alone.
    needs_code = not order or event.type in {EventType.PAYMENT_UNKNOWN, EventType.REFUND_UNKNOWN}
    facts = (
        _shop(event, say),
        say("order %(id)s") % {"id": order} if order else "",
        say("code %(code)s") % {"code": code} if code and needs_code else "",
        f"•••{phone}" if phone else "",
    )
    return tuple(fact for fact in facts if fact)


def _of_route(event: EventFacts, say: Say) -> tuple[str, ...]:
    data = event.data
    facts = (
        _shop(event, say),
        say("BIN %(bin)s") % {"bin": _text(data.get("organization_bin"))},
        "" if data.get("is_active", True) else say("takes no payments"),
        say("version %(number)s") % {"number": data.get("version")},
        say("changed by %(name)s") % {"name": _text(data.get("actor"))},
        _text(data.get("reason")),
    )
    return tuple(fact for fact in facts if fact)


def _of_proposal(event: EventFacts, say: Say) -> tuple[str, ...]:
    data, name = event.data, {"name": _text(event.data.get("actor"))}
    before, after = (_text(data.get(which)) for which in ("organization_bin_today", "organization_bin"))
    is_proposed = event.type is EventType.ROUTE_PROPOSED
    facts = (
        _shop(event, say),
        say("BIN %(bin)s") % {"bin": after if before == after else f"{before} → {after}"},
        say("another device token") if data.get("has_other_device_token") else "",
        "" if data.get("is_active", True) else say("takes no payments"),
        (say("proposed by %(name)s") if is_proposed else say("refused by %(name)s")) % name,
        _text(data.get("reason")),
    )
    return tuple(fact for fact in facts if fact)


def _of_endpoint(data: Mapping[str, Any]) -> tuple[str, ...]:
    # Only the host of a URL: the rest of it may be a secret.
    facts = (_text(data.get("description")), urlsplit(str(data.get("url", ""))).hostname or "")
    return tuple(fact for fact in facts if fact)


def _shop(event: EventFacts, say: Say) -> str:
    return _text(event.shop_name) or (say("shop %(id)s") % {"id": event.shop_id} if event.shop_id else "")


def _text(value: object) -> str:
    """A text from outside, on one line and cut to a length."""
    return " ".join(str(value or "").split())[:_FACT_LENGTH]
