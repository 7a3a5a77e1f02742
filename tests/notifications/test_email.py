# ruff: noqa: RUF001 - Russian letters look like Latin ones
"""E-mail over a real SMTP connection."""

from dataclasses import replace
from typing import Any

import pytest

from payment_service.notifications.channel import ChatGone, Delivery, Refused, Sent, TryAgain
from payment_service.notifications.email import Email
from payment_service.notifications.settings import EmailSettings
from payment_service.notifications.smtp import SmtpServer
from payment_service.notifications.texts import Note
from tests.support.mailbox import Mailbox, read
from tests.support.processes import free_port

NOTE = Note("Оплачено 1 ₸", ("Rosalie", "заказ 12345"), None, "https://pay.example.kz/console/payments/1", "Открыть")
ANNA = "anna@shop.example.kz"


def channel_to(port: int) -> Email:
    return Email(EmailSettings(SmtpServer.of(f"smtp://127.0.0.1:{port}"), "pay@example.kz"))


async def send(mailbox: Mailbox, *, key: str = "1.2") -> Delivery:
    return await channel_to(mailbox.port).send(ANNA, NOTE, key=key)


async def test_mail_arrives_whole(mailbox: Mailbox) -> None:
    assert await send(mailbox) == Sent()
    [envelope] = mailbox.mails
    assert (envelope.mail_from, envelope.rcpt_tos) == ("pay@example.kz", [ANNA])
    mail = read(envelope)
    assert mail["Subject"] == "Оплачено 1 ₸ · Rosalie · заказ 12345"
    assert mail.get_content().replace("\r\n", "\n").strip() == f"{NOTE.line}\n\nОткрыть: {NOTE.link}"


async def test_line_separator_in_a_name_breaks_no_subject(mailbox: Mailbox) -> None:
    note = replace(NOTE, facts=("Rosalie\u2028Алматы \U0001fa77",))
    assert await channel_to(mailbox.port).send(ANNA, note, key="1.2") == Sent()
    assert read(mailbox.mails[0])["Subject"] == "Оплачено 1 ₸ · Rosalie Алматы \U0001fa77"


async def test_mail_whose_answer_is_lost_is_sent_again_as_the_same_mail(mailbox: Mailbox) -> None:
    mailbox.breaks_off = True
    assert isinstance(await send(mailbox), TryAgain)
    mailbox.breaks_off = False
    assert await send(mailbox) == Sent()
    first, second = (read(envelope)["Message-ID"] for envelope in mailbox.mails)
    assert first == second == "<1.2@example.kz>"


@pytest.mark.parametrize(
    ("to_address", "to_data", "kind"),
    [
        ("550 5.1.1 no such user", "250 OK", ChatGone),
        ("550 unknown", "250 OK", ChatGone),
        ("550 5.2.1 mailbox disabled", "250 OK", ChatGone),
        ("550 5.7.1 relaying denied", "250 OK", Refused),
        ("450 4.2.0 greylisted", "250 OK", TryAgain),
        ("250 OK", "554 5.7.1 looks like spam", Refused),
        ("250 OK", "451 4.3.0 later", TryAgain),
    ],
)
async def test_every_answer_has_its_meaning(mailbox: Mailbox, to_address: str, to_data: str, kind: type) -> None:
    mailbox.answer_to_address, mailbox.answer_to_data = to_address, to_data
    delivery = await send(mailbox)
    assert isinstance(delivery, kind), delivery
    assert ANNA not in str(delivery)
    assert mailbox.mails == []


async def test_nobody_there_is_tried_again() -> None:
    delivery = await channel_to(free_port()).send(ANNA, NOTE, key="k")
    assert delivery == TryAgain("email: SMTPConnectError")


async def test_server_without_tls_gets_no_password(mailbox: Mailbox) -> None:
    server = replace(SmtpServer.of(f"smtp://pay:word@127.0.0.1:{mailbox.port}"), start_tls=True)
    assert isinstance(await Email(EmailSettings(server, "pay@example.kz")).send(ANNA, NOTE, key="k"), TryAgain)
    assert mailbox.mails == []


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("smtps://u%40x:p%3Aw@mail.example.kz", ("mail.example.kz", 465, "u@x", "p:w", True, False)),
        ("smtp://pay:word@mail.example.kz", ("mail.example.kz", 587, "pay", "word", False, True)),
        ("smtp://mail.example.kz:25", ("mail.example.kz", 25, None, None, False, True)),
    ],
)
def test_server_is_read_from_its_url(url: str, expected: tuple[Any, ...]) -> None:
    server = SmtpServer.of(url)
    fields = (server.host, server.port, server.username, server.password, server.tls, server.start_tls)
    assert fields == expected
    assert server.password is None or server.password not in repr(server)


@pytest.mark.parametrize(
    "url", ["", "mail.example.kz", "http://x", "smtp://", "smtp://x:y/z", "smtp://x:0", "smtp://h/p"]
)
def test_url_of_no_mail_server_is_refused_without_quoting_it(url: str) -> None:
    with pytest.raises(ValueError, match="must be smtps://"):
        SmtpServer.of(url)
