# ruff: noqa: RUF001 - Russian letters look like Latin ones
"""What people read: every event in every language, amounts as they are written here, nothing that is a secret."""

from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from typing import Any

import pytest

from payment_service.events.outbox import SUBSCRIBABLE, EventType
from payment_service.languages import Language
from payment_service.notifications import email, telegram
from payment_service.notifications.texts import (
    ADVICE,
    HEADLINES,
    EventFacts,
    Note,
    money,
    note_of,
    texts,
)

AT = datetime(2026, 11, 20, 9, 5, tzinfo=UTC)
PAYMENT: dict[str, Any] = {
    "id": "0198c0de-0000-7000-8000-000000000001",
    "amount": 17500,
    "order_id": "12345",
    "short_code": "K7M2QX",
    "phone_last4": "4567",
    "error_message": None,
}
REFUND = {"id": "0198c0de-0000-7000-8000-000000000002", "amount": 500.5, "payment": PAYMENT}
ROUTE = {
    "organization_bin": "920317450731",
    "device_token": "0198c0de…",
    "is_active": True,
    "version": 3,
    "actor": "cli:anna",
    "reason": "new account",
}
ENDPOINT = {"url": "https://user:word@shop.example.kz/hook?key=word", "description": "Bitrix"}
PROPOSAL = {
    "id": "0198c0de-0000-7000-8000-000000000003",
    "shop_id": 121038,
    "on_version": 3,
    "organization_bin": "991011000048",
    "organization_bin_today": "920317450731",
    "has_other_device_token": True,
    "is_active": True,
    "reason": "new account",
    "expires_at": "2026-11-23T09:05:00Z",
    "actor": "one@example.kz",
}
DATA = {"payment": PAYMENT, "refund": REFUND, "route": ROUTE, "endpoint": ENDPOINT}


def told(kind: EventType, language: Language = Language.RU, *, late: timedelta = timedelta(), **changes: Any) -> Note:
    subject = kind.partition(".")[0]
    data = PROPOSAL if kind in {EventType.ROUTE_PROPOSED, EventType.ROUTE_REFUSED} else DATA[subject]
    happening = EventFacts(kind, {**data, **changes}, 121038, "Eileen flowers", AT)
    return note_of(happening, language, now=AT + late, console_url="https://pay.example.kz")


def plain(note: Note) -> str:
    return note.line.replace("\N{NO-BREAK SPACE}", " ")


def headline(kind: EventType, language: Language) -> str:
    return texts(language).gettext(HEADLINES[kind])


def test_paid_is_told_in_one_line() -> None:
    line = "Оплачено 17 500 ₸ · Eileen flowers · заказ 12345 · •••4567"
    assert plain(told(EventType.PAYMENT_PAID)) == line


@pytest.mark.parametrize("language", Language)
@pytest.mark.parametrize("kind", SUBSCRIBABLE)
def test_every_event_has_words_in_every_language(kind: EventType, language: Language) -> None:
    note = told(kind, language)
    assert note.headline.startswith(headline(kind, language))
    assert "%" not in note.line
    assert "None" not in note.line


def test_languages_say_it_differently() -> None:
    assert HEADLINES.keys() == set(SUBSCRIBABLE) >= ADVICE.keys()
    for kind in SUBSCRIBABLE:
        assert len({headline(kind, language) for language in Language}) == len(Language)


def test_no_headline_stands_for_two_events() -> None:
    for language in Language:
        assert len({headline(kind, language) for kind in SUBSCRIBABLE}) == len(SUBSCRIBABLE)


@pytest.mark.parametrize(
    ("tenge", "decimal", "shown"),
    [
        (1, ",", "1 ₸"),
        (999, ",", "999 ₸"),
        (17500, ",", "17 500 ₸"),
        (17500.5, ",", "17 500,50 ₸"),
        (17500.05, ".", "17 500.05 ₸"),
        (99999999.99, ",", "99 999 999,99 ₸"),
        (0.29, ",", "0,29 ₸"),
        (None, ",", "?"),
    ],
)
def test_amount_is_written_as_people_write_it(tenge: float | None, decimal: str, shown: str) -> None:
    assert money(tenge, decimal) == shown.replace(" ", "\N{NO-BREAK SPACE}")


def test_partial_refund_says_of_how_much() -> None:
    assert plain(told(EventType.REFUND_SUCCEEDED)).startswith("Возвращено 500,50 ₸ · из 17 500 ₸ · Eileen flowers")
    assert " из " not in told(EventType.REFUND_SUCCEEDED, amount=17500).line


def test_unknown_says_what_not_to_do_and_how_to_find_it() -> None:
    for language in Language:
        note = told(EventType.PAYMENT_UNKNOWN, language)
        assert "K7M2QX" in note.line
        assert note.advice


def test_payment_without_an_order_is_found_by_its_code() -> None:
    assert "код K7M2QX" in told(EventType.PAYMENT_PAID, order_id=None).line
    assert "K7M2QX" not in told(EventType.PAYMENT_PAID).line


def test_failure_says_what_the_provider_said() -> None:
    assert told(EventType.PAYMENT_FAILED, error_message="Нет средств").advice == "Нет средств"


def test_payment_of_which_a_client_told_little_is_told_with_what_there_is() -> None:
    bare = EventFacts(EventType.PAYMENT_PAID, {"id": PAYMENT["id"], "amount": None}, 8, None, AT)
    assert note_of(bare, Language.RU, now=AT).line == "Оплачено · магазин 8"
    assert note_of(bare, Language.KK, now=AT).line == "Төленді · 8 дүкені"


def test_late_message_says_when_it_happened_here() -> None:
    assert told(EventType.PAYMENT_PAID, late=timedelta(minutes=6)).facts[-1] == "в 14:05 20.11.2026"
    assert told(EventType.PAYMENT_PAID, late=timedelta(minutes=4)).facts[-1] == "•••4567"


def test_link_leads_to_the_payment_also_from_its_refund() -> None:
    page = f"https://pay.example.kz/console/payments/{PAYMENT['id']}"
    assert told(EventType.PAYMENT_PAID).link == told(EventType.REFUND_FAILED).link == page
    assert told(EventType.ROUTE_CHANGED).link is None


def test_without_a_console_there_is_no_link() -> None:
    happening = EventFacts(EventType.PAYMENT_PAID, PAYMENT, 121038, "Eileen flowers", AT)
    assert note_of(happening, Language.RU, now=AT).link is None


def test_changed_route_names_the_account_and_who_did_it() -> None:
    line = told(EventType.ROUTE_CHANGED).line
    assert all(word in line for word in ("920317450731", "cli:anna", "new account", "Eileen flowers"))
    assert "0198c0de" not in line
    assert "выключен" in told(EventType.ROUTE_CHANGED, is_active=False).line


def test_change_that_waits_says_from_where_to_where_who_and_leads_to_its_page() -> None:
    note = told(EventType.ROUTE_PROPOSED)
    assert note.facts == (
        "Eileen flowers",
        "БИН 920317450731 → 991011000048",
        "другой токен устройства",
        "предложил one@example.kz",
        "new account",
    )
    assert note.link == f"https://pay.example.kz/console/sellers/121038/changes/{PROPOSAL['id']}"
    only_token = told(EventType.ROUTE_REFUSED, organization_bin="920317450731")
    assert only_token.facts[1:4] == ("БИН 920317450731", "другой токен устройства", "отклонил one@example.kz")


def test_endpoint_is_named_by_its_host_alone() -> None:
    note = told(EventType.ENDPOINT_DISABLED)
    assert note.facts == ("Bitrix", "shop.example.kz")


def test_what_came_from_outside_stays_on_its_line_and_ends() -> None:
    note = told(EventType.PAYMENT_PAID, order_id="12\n345\t\N{NO-BREAK SPACE}6", error_message="x" * 1000)
    assert "заказ 12 345 6" in note.facts
    assert len(told(EventType.PAYMENT_FAILED, error_message="x" * 1000).advice or "") == 200


def test_telegram_gets_html_that_nobody_can_break() -> None:
    text = telegram.written(told(EventType.PAYMENT_FAILED, order_id="<b>&", error_message='"><a href=x>'))
    assert text.splitlines() == [
        f"<b>Не оплачено {money(17500, ',')}</b> · Eileen flowers · заказ &lt;b&gt;&amp; · •••4567",
        "&quot;&gt;&lt;a href=x&gt;",
        f'<a href="https://pay.example.kz/console/payments/{PAYMENT["id"]}">Открыть в консоли</a>',
    ]


def test_mail_is_plain_text_with_the_line_as_its_subject() -> None:
    note = told(EventType.PAYMENT_UNKNOWN, order_id="<b>")
    mail = message_from_bytes(email.written(note).as_bytes(), policy=policy.default)
    assert mail["Subject"] == note.line
    assert mail.get_content_type() == "text/plain"
    assert mail.get_content().split("\n\n")[1:] == [note.advice, f"{note.link_label}: {note.link}\n"]
