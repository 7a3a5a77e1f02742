# ruff: noqa: RUF001 - Russian and Kazakh letters look like Latin ones
"""What people are told, in their language: one short line of facts, a sentence where something is to be done, a link.

Pure: from an event's data to a note; each channel writes a note in its own way. A phone is its last four digits.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final
from urllib.parse import urlsplit

from payment_service.events.outbox import EventType
from payment_service.money import TIYN_PER_TENGE, Money

ALMATY: Final = timezone(timedelta(hours=5))
LATE_AFTER: Final = timedelta(minutes=5)
"""Who is told later than this is told when it happened."""
NO_BREAK: Final = "\N{NO-BREAK SPACE}"
NOTIFIABLE_EVENTS: Final = tuple(kind for kind in EventType if kind is not EventType.TEST)
"""What people can be told of; a test event is for programs."""
_FACT_LENGTH: Final = 200


class Language(StrEnum):
    """The language of the messages to a chat."""

    RU = "ru"
    KK = "kk"
    EN = "en"


@dataclass(frozen=True, slots=True)
class Note:
    """What to tell, as plain text in parts."""

    headline: str
    facts: tuple[str, ...] = ()
    advice: str | None = None
    link: str | None = None
    link_label: str = ""

    @property
    def line(self) -> str:
        """The headline and the facts in one line."""
        return " · ".join((self.headline, *self.facts))


@dataclass(frozen=True, slots=True)
class Words:
    """The words of one language. ``{}`` is what the name of the field says."""

    headlines: Mapping[EventType, str]
    advice: Mapping[EventType, str]
    shop: str
    order: str
    code: str
    total: str
    organization_bin: str
    route_version: str
    switched_off: str
    actor: str
    at: str
    link: str
    test: Note
    password_link: Note
    """``{}`` of its advice is the person's name."""
    decimal: str = ","


WORDS: Final[Mapping[Language, Words]] = {
    Language.RU: Words(
        headlines={
            EventType.PAYMENT_PENDING: "Ждём оплату",
            EventType.PAYMENT_PAID: "Оплачено",
            EventType.PAYMENT_FAILED: "Не оплачено",
            EventType.PAYMENT_CANCELLED: "Счёт отменён",
            EventType.PAYMENT_UNKNOWN: "Исход платежа неизвестен",
            EventType.PAYMENT_LATE_SUCCESS: "Оплачено с опозданием",
            EventType.REFUND_SUCCEEDED: "Возвращено",
            EventType.REFUND_FAILED: "Возврат не прошёл",
            EventType.REFUND_UNKNOWN: "Исход возврата неизвестен",
            EventType.ROUTE_CHANGED: "Изменён счёт получателя",
            EventType.ENDPOINT_DISABLED: "Вебхук отключён",
            EventType.ENDPOINT_RECOVERED: "Вебхук снова работает",
        },
        advice={
            EventType.PAYMENT_UNKNOWN: "Не выставляйте счёт снова: найдите платёж по коду в кабинете Kaspi.",
            EventType.PAYMENT_LATE_SUCCESS: "Раньше этот платёж значился неоплаченным.",
            EventType.REFUND_UNKNOWN: "Не возвращайте снова: сначала проверьте в кабинете Kaspi.",
            EventType.ROUTE_CHANGED: "Если это сделали не вы, проверьте немедленно.",
            EventType.ENDPOINT_DISABLED: "Сайт больше не узнаёт об оплатах сам, пока адрес не исправят.",
        },
        shop="магазин {}",
        order="заказ {}",
        code="код {}",
        total="из {}",
        organization_bin="БИН {}",
        route_version="версия {}",
        switched_off="приём оплат выключен",
        actor="изменил {}",
        at="в {}",
        link="Открыть в консоли",
        test=Note("Проверка связи", advice="Сюда будут приходить сообщения об оплатах."),
        password_link=Note(
            "Вход в консоль платежей",
            advice="Здравствуйте, {}! По ссылке вы зададите пароль. Она работает один раз, в течение суток. "
            "Никому её не пересылайте. Если вы её не ждали, скажите об этом администратору.",
            link_label="Задать пароль",
        ),
    ),
    Language.KK: Words(
        headlines={
            EventType.PAYMENT_PENDING: "Төлем күтілуде",
            EventType.PAYMENT_PAID: "Төленді",
            EventType.PAYMENT_FAILED: "Төленбеді",
            EventType.PAYMENT_CANCELLED: "Шот жойылды",
            EventType.PAYMENT_UNKNOWN: "Төлем нәтижесі белгісіз",
            EventType.PAYMENT_LATE_SUCCESS: "Кешігіп төленді",
            EventType.REFUND_SUCCEEDED: "Қайтарылды",
            EventType.REFUND_FAILED: "Қайтарым өтпеді",
            EventType.REFUND_UNKNOWN: "Қайтарым нәтижесі белгісіз",
            EventType.ROUTE_CHANGED: "Алушының шоты өзгерді",
            EventType.ENDPOINT_DISABLED: "Вебхук өшірілді",
            EventType.ENDPOINT_RECOVERED: "Вебхук қайта жұмыс істейді",
        },
        advice={
            EventType.PAYMENT_UNKNOWN: "Шотты қайта жібермеңіз: төлемді коды бойынша Kaspi кабинетінен іздеңіз.",
            EventType.PAYMENT_LATE_SUCCESS: "Бұған дейін бұл төлем төленбеген деп көрсетілген.",
            EventType.REFUND_UNKNOWN: "Ақшаны қайта қайтармаңыз: алдымен Kaspi кабинетінен тексеріңіз.",
            EventType.ROUTE_CHANGED: "Мұны сіз жасамаған болсаңыз, дереу тексеріңіз.",
            EventType.ENDPOINT_DISABLED: "Мекенжай түзетілгенше, сайт төлемдер туралы өзі білмейді.",
        },
        shop="{} дүкені",
        order="тапсырыс {}",
        code="код {}",
        total="барлығы {}",
        organization_bin="БСН {}",
        route_version="{}-нұсқа",
        switched_off="төлем қабылдау өшірулі",
        actor="өзгерткен: {}",
        at="уақыты {}",
        link="Консольде ашу",
        test=Note("Байланысты тексеру", advice="Төлемдер туралы хабарламалар осында келеді."),
        password_link=Note(
            "Төлемдер консоліне кіру",
            advice="Сәлеметсіз бе, {}! Сілтеме арқылы құпиясөз орнатасыз. Ол бір рет, бір тәулік ішінде жұмыс істейді. "
            "Оны ешкімге жібермеңіз. Күтпеген болсаңыз, әкімшіге айтыңыз.",
            link_label="Құпиясөз орнату",
        ),
    ),
    Language.EN: Words(
        headlines={
            EventType.PAYMENT_PENDING: "Waiting for payment",
            EventType.PAYMENT_PAID: "Paid",
            EventType.PAYMENT_FAILED: "Not paid",
            EventType.PAYMENT_CANCELLED: "Invoice cancelled",
            EventType.PAYMENT_UNKNOWN: "Outcome of the payment unknown",
            EventType.PAYMENT_LATE_SUCCESS: "Paid late",
            EventType.REFUND_SUCCEEDED: "Refunded",
            EventType.REFUND_FAILED: "Refund failed",
            EventType.REFUND_UNKNOWN: "Outcome of the refund unknown",
            EventType.ROUTE_CHANGED: "Receiving account changed",
            EventType.ENDPOINT_DISABLED: "Webhook switched off",
            EventType.ENDPOINT_RECOVERED: "Webhook works again",
        },
        advice={
            EventType.PAYMENT_UNKNOWN: "Do not ask for it again: look the payment up by its code in the Kaspi cabinet.",
            EventType.PAYMENT_LATE_SUCCESS: "This payment was shown as failed before.",
            EventType.REFUND_UNKNOWN: "Do not refund it again: look in the Kaspi cabinet first.",
            EventType.ROUTE_CHANGED: "If this was not you, look at once.",
            EventType.ENDPOINT_DISABLED: "The site is no longer notified of payments: correct the address.",
        },
        shop="shop {}",
        order="order {}",
        code="code {}",
        total="of {}",
        organization_bin="BIN {}",
        route_version="version {}",
        switched_off="takes no payments",
        actor="changed by {}",
        at="at {}",
        link="Open in the console",
        test=Note("Connection test", advice="Messages about payments will come here."),
        password_link=Note(
            "Signing in to the payments console",
            advice="Hello, {}! The link sets your password. It works once, within a day. "
            "Do not pass it on. If you did not expect it, tell an administrator.",
            link_label="Set the password",
        ),
        decimal=".",
    ),
}


@dataclass(frozen=True, slots=True)
class EventFacts:
    """An event, and what its own data does not hold."""

    type: EventType
    data: Mapping[str, Any]
    shop_id: int | None
    shop_name: str | None
    at: datetime


def note_of(happening: EventFacts, language: Language, *, now: datetime, console_url: str | None = None) -> Note:
    """What people are told of an event."""
    words, data = WORDS[language], happening.data
    headline = words.headlines[happening.type]
    advice = words.advice.get(happening.type)
    match happening.type.partition(".")[0]:
        case "payment":
            amount, facts, payment = data.get("amount"), _of_payment(happening, data, words), data
            advice = advice or _text(data.get("error_message"))
        case "refund":
            payment = data.get("payment", {})
            amount, facts = data.get("amount"), _of_payment(happening, payment, words)
            if amount != payment.get("amount"):
                facts = (words.total.format(money(payment.get("amount"), words.decimal)), *facts)
            advice = advice or _text(data.get("error_message"))
        case "route":
            amount, facts, payment = None, _of_route(happening, words), {}
        case _:
            amount, facts, payment = None, _of_endpoint(data), {}
    if amount is not None:
        headline = f"{headline} {money(amount, words.decimal)}"
    if now - happening.at > LATE_AFTER:
        facts = (*facts, words.at.format(f"{happening.at.astimezone(ALMATY):%H:%M %d.%m.%Y}"))
    link = f"{console_url}/console/payments/{payment['id']}" if console_url and "id" in payment else None
    return Note(headline, facts, advice, link, words.link)


def note_of_link(name: str, link: str, language: Language) -> Note:
    """What a person is told with a link that sets their password. Its first line holds nothing of the link."""
    note = WORDS[language].password_link
    return replace(note, advice=str(note.advice).format(_text(name)), link=link)


def money(tenge: float | None, decimal: str) -> str:
    """An amount of an event (the number that JSON shows, in tenge) as people read it: 17 500 ₸, or 17 500,50 ₸."""
    if tenge is None:
        return "?"
    # The shortest text of the number is the very amount that was written: money.py, Money.number.
    whole, rest = divmod(Money.from_tenge(Decimal(str(tenge))).tiyn, TIYN_PER_TENGE)
    tiyn = f"{decimal}{rest:02d}" if rest else ""
    return f"{whole:,}".replace(",", NO_BREAK) + f"{tiyn}{NO_BREAK}₸"


def _of_payment(happening: EventFacts, payment: Mapping[str, Any], words: Words) -> tuple[str, ...]:
    order, code, phone = (_text(payment.get(name)) for name in ("order_id", "short_code", "phone_last4"))
    # In the merchant cabinet a payment is found by the code alone.
    needs_code = not order or happening.type in {EventType.PAYMENT_UNKNOWN, EventType.REFUND_UNKNOWN}
    facts = (
        _shop(happening, words),
        words.order.format(order) if order else "",
        words.code.format(code) if code and needs_code else "",
        f"•••{phone}" if phone else "",
    )
    return tuple(fact for fact in facts if fact)


def _of_route(happening: EventFacts, words: Words) -> tuple[str, ...]:
    data = happening.data
    facts = (
        _shop(happening, words),
        words.organization_bin.format(_text(data.get("organization_bin"))),
        "" if data.get("is_active", True) else words.switched_off,
        words.route_version.format(data.get("version")),
        words.actor.format(_text(data.get("actor"))),
        _text(data.get("reason")),
    )
    return tuple(fact for fact in facts if fact)


def _of_endpoint(data: Mapping[str, Any]) -> tuple[str, ...]:
    # Of an address only whose it is: the rest of it may be a secret.
    facts = (_text(data.get("description")), urlsplit(str(data.get("url", ""))).hostname or "")
    return tuple(fact for fact in facts if fact)


def _shop(happening: EventFacts, words: Words) -> str:
    return _text(happening.shop_name) or (words.shop.format(happening.shop_id) if happening.shop_id else "")


def _text(value: object) -> str:
    """What came from outside, on one line and not endless."""
    return " ".join(str(value or "").split())[:_FACT_LENGTH]
