# ruff: noqa: RUF001 - Russian letters look like Latin ones
"""E-mail over a real SMTP connection."""

import asyncio
import contextlib
import socket
from dataclasses import replace
from typing import Any

import pytest

from payment_service.notifications import email
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


@pytest.mark.parametrize("headline", ["Paid", "Оплачено"])
@pytest.mark.parametrize(
    "number",
    ["=?utf-8?q?1=0D=0ABcc:_eve@example.kz=0D=0A=0D=0ANew_text?=", "=?utf-8?b?MQ1CY2M6IGV2ZQ==?=", "=?a?q?1?="],
)
async def test_encoded_word_in_an_order_number_stays_what_it_is(mailbox: Mailbox, headline: str, number: str) -> None:
    note = Note(headline, ("«Royal Flowers Almaty»", number), None, NOTE.link, "Открыть")
    assert await channel_to(mailbox.port).send(ANNA, note, key="1.2") == Sent()
    mail = read(mailbox.mails[0])
    wanted = [
        "Content-Type",
        "MIME-Version",
        "Content-Transfer-Encoding",
        "Subject",
        "Date",
        "From",
        "To",
        "Message-ID",
    ]
    assert mail.keys() == wanted
    assert mail["Subject"] == note.line
    assert mail.get_content().startswith(f"{note.line}\n")


async def test_long_subject_keeps_its_spaces(mailbox: Mailbox) -> None:
    note = Note('<x> b; \U0001f337 Rosalie a, "VLVT № Rosalie a, «Цветы «Цветы', ("заказ 1",))
    assert await channel_to(mailbox.port).send(ANNA, note, key="1.2") == Sent()
    assert read(mailbox.mails[0])["Subject"] == note.line
    assert max(map(len, mailbox.mails[0].content.split(b"\r\n"))) <= 78


async def test_two_addresses_are_none(mailbox: Mailbox) -> None:
    assert isinstance(await channel_to(mailbox.port).send("eve,anna@example.kz", NOTE, key="1.2"), TryAgain)
    assert mailbox.mails == []


async def test_mail_that_was_accepted_was_sent_even_if_the_server_does_not_part(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(email, "_QUIT_TIMEOUT_S", 0.1)
    monkeypatch.setattr(email, "DEADLINE_S", 2)
    assert await answered_by({}) == Sent()


async def test_mail_whose_answer_is_lost_is_sent_again_as_the_same_mail(mailbox: Mailbox) -> None:
    mailbox.breaks_off = True
    assert isinstance(await send(mailbox), TryAgain)
    mailbox.breaks_off = False
    assert await send(mailbox) == Sent()
    first, second = (read(envelope)["Message-ID"] for envelope in mailbox.mails)
    assert first == second == "<1.2@example.kz>"


async def answered_by(answers: dict[str, str]) -> Delivery:
    """What a mail comes to at a server that gives these answers, by command, and none to QUIT."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        word, usual = "", {"": "220 here", "DATA": "354 go on"}
        while word != "QUIT":
            writer.write(f"{answers.get(word, usual.get(word, '250 OK'))}\r\n".encode())
            if word == "DATA" and "DATA" not in answers:
                await reader.readuntil(b"\r\n.\r\n")
                writer.write(b"250 OK\r\n")
            word = (await reader.readline()).decode()[:4] or "QUIT"
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        return await channel_to(server.sockets[0].getsockname()[1]).send(ANNA, NOTE, key="1.2")


@pytest.mark.parametrize(
    ("command", "answer", "kind"),
    [
        ("", "554 5.7.1 your address is blocked", TryAgain),
        ("EHLO", "550 5.7.1 who are you", TryAgain),
        ("MAIL", "530 5.7.0 authentication required", TryAgain),
        ("MAIL", "553 5.7.1 not your address", TryAgain),
        ("DATA", "554 no", Refused),
    ],
)
async def test_refusal_before_the_mail_was_given_is_ours_to_put_right_and_loses_none(
    command: str, answer: str, kind: type
) -> None:
    assert isinstance(await answered_by({command: answer, "HELO": answer}), kind)


@pytest.mark.parametrize(
    ("to_address", "to_data", "kind"),
    [
        ("550 5.1.1 no such user", "250 OK", ChatGone),
        ("550 unknown", "250 OK", ChatGone),
        ("550 5.2.1 mailbox disabled", "250 OK", ChatGone),
        ("550 5.7.1 relaying denied", "250 OK", TryAgain),
        ("550 5.1.8 the sender's domain is unknown", "250 OK", TryAgain),
        ("550 5.2.2 mailbox full", "250 OK", TryAgain),
        ("552 5.2.2 mailbox full", "250 OK", TryAgain),
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
    assert delivery == TryAgain("email: ConnectionRefusedError")


async def test_address_from_which_nothing_comes_back_leaves_time_for_the_next(
    mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(email, "DEADLINE_S", 3)
    monkeypatch.setattr(email, "CONNECT_TIMEOUT_S", 1, raising=False)
    both = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (at, mailbox.port)) for at in ("127.0.0.2", "127.0.0.1")]
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.socket())
        full.bind(both[0][-1])
        full.listen(0)
        for _ in range(4):  # as many as it has room for, and more: it drops what comes then
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(both[0][-1])
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_more: both)
        server = replace(SmtpServer.of(f"smtp://127.0.0.1:{mailbox.port}"), host="mail.example.kz")
        assert await Email(EmailSettings(server, "pay@example.kz")).send(ANNA, NOTE, key="k") == Sent()


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
