"""Links that set a password, sent by e-mail: to the account alone, once, and nowhere else."""

import re
from collections.abc import Callable
from typing import Any

import asyncpg
import httpx
import pytest
from pydantic import SecretStr

from payment_service.access.people import Role
from payment_service.languages import Language
from payment_service.notifications.links import Links
from payment_service.observability.exposition import exposition
from payment_service.postgres.visibility import ALL_SHOPS
from payment_service.services import Services
from payment_service.settings import Settings
from tests.console.conftest import PASSWORD, SignIn, text_of
from tests.support.mailbox import Mailbox, read

SITE = "https://pay.example.kz"
LINK = re.compile(rf"{SITE}/console/link/([\w-]{{43}})")
DANA = {"email": "Dana@Example.kz", "name": "Дана", "role": "operator"}


@pytest.fixture
def settings(settings: Settings, mailbox: Mailbox) -> Settings:
    mail = {"smtp_url": SecretStr(f"smtp://127.0.0.1:{mailbox.port}"), "smtp_from": "pay@example.kz"}
    return settings.model_copy(update={**mail, "console_url": SITE})


async def stored(sql: asyncpg.Connection) -> str:
    """All that the tables hold of accounts, messages and the record."""
    tables = ("person", "person_link", "payment_log", "notify_message", "notify_chat", "event")
    return str([[dict(row) for row in await sql.fetch(f"SELECT * FROM {table}")] for table in tables])


async def test_new_account_gets_its_link_by_mail_and_nobody_else_sees_it(
    sign_in: SignIn,
    browser: Callable[..., httpx.AsyncClient],
    mailbox: Mailbox,
    sql: asyncpg.Connection,
    capfd: pytest.CaptureFixture[str],
) -> None:
    client = await sign_in(Role.ADMIN)
    assert 'name="send" value="yes" checked' in (await client.get("/console/people/new")).text
    answer = await client.post("/console/people/new", data={**DANA, "send": "yes"})
    assert "Sent to dana@example.kz." in text_of(answer)
    [envelope] = mailbox.mails
    mail = read(envelope)
    [token] = LINK.findall(mail.get_content())
    assert envelope.rcpt_tos == ["dana@example.kz"]
    assert mail["Subject"] == "Signing in to the payments console"
    assert token not in mail["Message-ID"]
    written = capfd.readouterr()
    for seen in (answer.text, await stored(sql), str(exposition(None, None)), written.out, written.err):
        assert token not in seen
    done = await browser().post(f"/console/link/{token}", data={"password": PASSWORD, "again": PASSWORD})
    assert done.status_code == 303
    entries = await sql.fetch(
        "SELECT operation_type, actor, reason FROM payment_log WHERE operation_type LIKE 'person-link%'"
        " AND actor = 'admin@example.kz' ORDER BY id"
    )
    assert [tuple(entry) for entry in entries] == [
        ("person-link", "admin@example.kz", None),
        ("person-link-send", "admin@example.kz", "email: sent"),
    ]


@pytest.mark.parametrize(
    ("trouble", "problem"),
    [
        # Filters against spam quote what they dislike.
        ({"answer_to_data": "554 5.7.1 refused: {end}"}, "email: 554"),
        ({"answer_to_address": "550 5.1.1 no such user"}, "email: 550"),
        ({"breaks_off": True}, "email: SMTPServerDisconnected"),
    ],
)
async def test_link_that_could_not_be_sent_is_shown_with_why_and_works(
    sign_in: SignIn,
    browser: Callable[..., httpx.AsyncClient],
    mailbox: Mailbox,
    sql: asyncpg.Connection,
    trouble: dict[str, Any],
    problem: str,
) -> None:
    for name, value in trouble.items():
        setattr(mailbox, name, value)
    client = await sign_in(Role.ADMIN)
    page = await client.post("/console/people/new", data={**DANA, "send": "yes"})
    assert f"It could not be sent ({problem}), or it is not known whether it was." in text_of(page)
    [token] = set(LINK.findall(page.text))
    assert "Choose a password" in (await browser().get(f"/console/link/{token}")).text
    reason = await sql.fetchval("SELECT reason FROM payment_log WHERE operation_type = 'person-link-send'")
    assert (reason, token in await stored(sql)) == (problem, False)


async def test_link_is_sent_again_as_another_one_and_the_earlier_one_is_over(
    services: Services, sign_in: SignIn, browser: Callable[..., httpx.AsyncClient], mailbox: Mailbox
) -> None:
    client = await sign_in(Role.ADMIN)
    person = await services.people.add("dana@example.kz", "Дана", Role.OPERATOR, ALL_SHOPS)
    for _ in range(2):
        assert (await client.post(f"/console/people/{person.id}", data={"do": "send-link"})).status_code == 200
    earlier, later = (LINK.findall(read(mail).get_content())[0] for mail in mailbox.mails)
    assert [(await browser().get(f"/console/link/{token}")).status_code for token in (earlier, later)] == [404, 200]
    await services.people.disable(person.id)
    assert await services.links.send(person, Language.RU) is None
    assert len(mailbox.mails) == 2


async def test_without_the_site_or_mail_nothing_is_offered_and_the_link_is_shown(
    services: Services, sign_in: SignIn, monkeypatch: pytest.MonkeyPatch, mailbox: Mailbox
) -> None:
    client = await sign_in(Role.ADMIN)
    monkeypatch.setattr(Links, "can_be_sent", False)
    assert "by e-mail" not in (await client.get("/console/people/new")).text
    page = await client.post("/console/people/new", data={**DANA, "send": "yes"})
    assert LINK.search(page.text)
    assert mailbox.mails == []
