"""Keys and accounts in the console: administrators alone, with the password again, and a link that is shown once."""

import asyncio
import re

import asyncpg
import httpx
import pytest

from payment_service.access.people import Role
from payment_service.access.service import FULL_ACCESS, Scope
from payment_service.postgres.visibility import ALL_SHOPS
from payment_service.routing.rule import set_needs_two
from payment_service.services import Services
from tests.conftest import ClientMaker
from tests.console.conftest import FOREIGN, OWN, PASSWORD, SignIn, text_of
from tests.support.waiting import until

LONG_AGO = (
    "SET session_replication_role = replica;"
    "UPDATE person_session SET proved_at = now() - interval '1 hour';"
    "RESET session_replication_role"
)
WAITING = "SELECT count(*) FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY (pg_blocking_pids(pid))"
ACCOUNT = {"email": "Dana@Example.kz", "name": "Дана", "role": "florist", f"shop-{OWN}": "yes", "limit": "50 000"}


# --- keys


async def test_key_is_shown_without_itself_and_with_when_it_was_used(
    services: Services, shops: dict[int, str], make_client: ClientMaker, sign_in: SignIn
) -> None:
    made = await services.access.create("bitrix", [Scope.PAYMENTS_READ], shops=frozenset({OWN}))
    client = await sign_in(Role.ADMIN)
    assert "Last used not since this is kept" in text_of(await client.get("/console/keys"))
    await make_client(made.key).get("/payments")
    await services.access.record_uses()
    page = await client.get("/console/keys")
    assert made.key not in page.text
    assert f"{made.key[:10]}…" in page.text
    assert re.search(r"Last used \d\d:\d\d", text_of(page))
    assert (await services.access.last_used()).keys() == {made.row.id}


async def test_key_ends_only_with_the_password_of_a_moment_ago(
    services: Services, sign_in: SignIn, sql: asyncpg.Connection
) -> None:
    made = await services.access.create("bitrix", [Scope.PAYMENTS_READ], shops=ALL_SHOPS)
    client = await sign_in(Role.ADMIN)
    path = f"/console/keys/{made.row.id}/revoke"
    await sql.execute(LONG_AGO)
    assert "Your password once more" in (await client.get(path)).text
    for wrong in ({}, {"password": "another one"}):
        assert (await client.post(path, data=wrong)).status_code == 422
    assert await sql.fetchval("SELECT revoked_at FROM api_key") is None
    answer = await client.post(path, data={"password": PASSWORD})
    assert "The key has ended." in (await client.get(answer.headers["location"])).text
    assert await sql.fetchval("SELECT revoked_at FROM api_key") is not None
    assert await sql.fetchval("SELECT actor FROM payment_log WHERE operation_type = 'key-revoke'") == "admin@example.kz"
    assert (await client.post(path)).status_code == 303  # twice is the same as once
    for missing in ("/console/keys/999/revoke", "/console/keys/x/revoke"):
        assert (await client.get(missing)).status_code == 404


async def test_form_whose_session_ends_while_it_is_sent_leads_to_the_sign_in(
    services: Services, sign_in: SignIn, sql: asyncpg.Connection
) -> None:
    made = await services.access.create("bitrix", [Scope.PAYMENTS_READ], shops=ALL_SHOPS)
    client = await sign_in(Role.ADMIN)
    await sql.execute(LONG_AGO)
    async with sql.transaction():
        await sql.execute("UPDATE person_session SET ended_at = now()")
        path = f"/console/keys/{made.row.id}/revoke"
        sent = asyncio.create_task(client.post(path, data={"password": PASSWORD}))
        await until(lambda: sql.fetchval(WAITING))
    answer = await sent
    assert (answer.status_code, answer.headers["location"]) == (303, "/console/sign-in")
    assert await sql.fetchval("SELECT revoked_at FROM api_key") is None


KEY = {"name": "bitrix", "scope-payments:read": "yes", "reach": "some", f"shop-{OWN}": "yes", "days": "30"}


async def test_key_is_made_once_however_often_the_form_is_sent_and_shown_by_the_first_answer_only(
    services: Services,
    shops: dict[int, str],
    make_client: ClientMaker,
    sign_in: SignIn,
    sql: asyncpg.Connection,
    caplog: pytest.LogCaptureFixture,
) -> None:
    client = await sign_in(Role.ADMIN)
    await sql.execute(LONG_AGO)
    [once] = re.findall(r'name="once" value="([^"]+)"', (await client.get("/console/keys/new")).text)
    form = {**KEY, "once": once}
    assert "password is not right" in (await client.post("/console/keys/new", data=form)).text
    assert await services.access.all() == []
    answers = await asyncio.gather(
        *(client.post("/console/keys/new", data={**form, "password": PASSWORD}) for _ in range(3))
    )
    [made] = [answer for answer in answers if answer.status_code == 200]
    [key] = re.findall(r'data-copy="(ps_[\w-]{43})"', made.text)
    assert made.headers["cache-control"] == "no-store"
    # Many passwords at once may be too many: nothing is made then either.
    others = {answer.headers.get("location") for answer in answers if answer is not made and answer.status_code != 429}
    assert others <= {"/console/keys?done=made-before"}
    assert (await client.post("/console/keys/new", data={**form, "name": "other"})).status_code == 303  # gone back to
    [row] = await services.access.all()
    assert (row.name, row.scopes, row.shops) == ("bitrix", ["payments:read"], [OWN])
    assert row.expires_at is not None
    assert (row.expires_at - row.created_at).days in {29, 30}
    assert (await make_client(key).get("/payments")).status_code == 200
    page = await client.get("/console/keys?done=made-before")
    assert "Nothing was made now" in page.text
    assert key not in page.text + (await client.get("/console/record?changes=yes")).text + caplog.text
    by_whom = await sql.fetch("SELECT actor, content FROM payment_log WHERE operation_type = 'key-create'")
    assert [line["actor"] for line in by_whom] == ["admin@example.kz"]
    assert key not in by_whom[0]["content"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"name": "console"}, "A name is 1 to 64 letters"),
        ({"name": "with blanks"}, "A name is 1 to 64 letters"),
        ({"scope-payments:read": None, "scope-money:take": "yes"}, "Choose what the key may do"),
        ({"reach": ""}, "Choose all shops"),
        ({"reach": "all"}, "Choose all shops"),
        ({f"shop-{OWN}": None}, "Choose all shops"),
        ({"shop-999": "yes"}, "Choose all shops"),
        ({"days": "0"}, "Days are a number"),
        ({"days": "0000009"}, "Days are a number"),
        ({"once": "mine"}, ""),
    ],
)
async def test_key_that_nobody_can_mean_is_not_made(
    services: Services, shops: dict[int, str], sign_in: SignIn, change: dict[str, str | None], told: str
) -> None:
    client = await sign_in(Role.ADMIN)
    form = {**KEY, "once": "0193d3f0-0000-4000-8000-000000000001", **change}
    answer = await client.post("/console/keys/new", data={name: value for name, value in form.items() if value})
    assert answer.status_code == (422 if told else 400)
    assert told in answer.text
    assert await services.access.all() == []


# --- people


async def test_account_is_made_with_a_link_that_is_shown_once_and_works(
    services: Services, shops: dict[int, str], sign_in: SignIn, sql: asyncpg.Connection
) -> None:
    client = await sign_in(Role.ADMIN)
    await sql.execute(LONG_AGO)
    assert (await client.post("/console/people/new", data=ACCOUNT)).status_code == 422
    assert await sql.fetchval("SELECT count(*) FROM person") == 1
    page = await client.post("/console/people/new", data={**ACCOUNT, "password": PASSWORD})
    assert page.headers["cache-control"] == "no-store"
    [path] = re.findall(r'data-copy="http://localhost(/console/link/[^"]+)"', page.text)
    row = await sql.fetchrow("SELECT * FROM person WHERE email = 'dana@example.kz'")
    assert (row["name"], row["role"], row["shops"], row["refund_limit"]) == ("Дана", "florist", [OWN], 5_000_000)
    assert "Choose a password" in (await client.get(path)).text
    by_whom = "SELECT actor FROM payment_log WHERE operation_type = 'person-create' AND subject = $1"
    assert await sql.fetchval(by_whom, f"person:{row['id']}") == "admin@example.kz"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"email": "nobody"}, "Take an e-mail address"),
        ({"email": "admin@example.kz"}, "Take an e-mail address"),
        ({"name": ""}, "A name has"),
        ({"role": "owner"}, "Choose a role"),
        ({"role": "admin"}, "an administrator has all of them"),
        ({f"shop-{OWN}": None}, "A florist has at least one shop"),
        ({"limit": "much"}, "A limit is written in tenge"),
    ],
)
async def test_account_that_cannot_be_is_told_and_keeps_what_was_typed(
    services: Services, shops: dict[int, str], sign_in: SignIn, change: dict[str, str | None], told: str
) -> None:
    client = await sign_in(Role.ADMIN)
    data = {name: value for name, value in {**ACCOUNT, **change}.items() if value is not None}
    answer = await client.post("/console/people/new", data=data)
    assert (answer.status_code, told in text_of(answer)) == (422, True)
    assert f'value="{data["email"]}"' in answer.text
    assert len(await services.people.all()) == 1


async def change_form(client: httpx.AsyncClient, path: str, **given: str) -> dict[str, str]:
    """What an administrator sends from the form of that account."""
    found = re.search('name="seen" value="([^"]*)"', (await client.get(path)).text)
    return {"do": "change", "seen": found[1] if found else "", **given}


async def test_form_of_yesterday_gives_no_right_back(
    services: Services, shops: dict[int, str], sign_in: SignIn
) -> None:
    client = await sign_in(Role.ADMIN)
    person = await services.people.add("dana@example.kz", "Дана", Role.OPERATOR, frozenset({OWN}))
    path = f"/console/people/{person.id}"
    of_yesterday = await change_form(client, path, role="operator", limit="5000", **{f"shop-{OWN}": "yes"})
    await services.people.change(person.id, role=Role.FLORIST, shops=frozenset({FOREIGN}))
    late = await client.post(path, data=of_yesterday)
    assert "since you opened that form" in (await client.get(late.headers["location"])).text
    row = next(row for row in await services.people.all() if row.id == person.id)
    assert (row.role, row.shops, row.refund_limit) == ("florist", [FOREIGN], None)


async def test_account_is_changed_signed_out_linked_and_ended(
    services: Services, shops: dict[int, str], sign_in: SignIn, sql: asyncpg.Connection
) -> None:
    theirs, client = await sign_in(Role.OPERATOR), await sign_in(Role.ADMIN)
    [person] = [row for row in await services.people.all() if row.role == Role.OPERATOR]
    path = f"/console/people/{person.id}"
    await sql.execute(LONG_AGO)
    for act in ("sign-out", "change", "link", "disable"):
        assert (await client.post(path, data={"do": act, "role": "operator"})).status_code == 422, act
    assert (await theirs.get("/console")).status_code == 200
    signed_out = await client.post(path, data={"do": "sign-out", "password": PASSWORD})
    assert signed_out.headers["location"] == f"{path}?done=signed-out"
    assert (await theirs.get("/console")).status_code == 303
    form = await change_form(client, path, role="florist", **{f"shop-{OWN}": "yes"})
    changed = await client.post(path, data=form)
    assert "Changed." in (await client.get(changed.headers["location"])).text
    assert "/console/link/" in (await client.post(path, data={"do": "link"})).text
    await client.post(path, data={"do": "disable"})
    row = next(row for row in await services.people.all() if row.id == person.id)
    assert (row.role, row.shops, row.disabled_at is not None) == ("florist", [OWN], True)
    assert "stays so" in (await client.get(path)).text
    for act in ("link", "change", "made-up"):
        assert (await client.post(path, data={"do": act, "role": "operator"})).status_code == 400


async def test_where_two_decide_one_gets_into_no_second_account_of_an_administrator(
    services: Services, shops: dict[int, str], sign_in: SignIn
) -> None:
    await set_needs_two(services.database, needs_two=True)
    client, _ = await sign_in(Role.ADMIN, name="one"), await sign_in(Role.ADMIN, name="two")
    await sign_in(Role.OPERATOR)
    one, two, operator = [f"/console/people/{person.id}" for person in await services.people.all()]
    alone: list[tuple[str, dict[str, str]]] = [
        ("/console/people/new", {"email": "me@example.com", "name": "Me", "role": "admin"}),
        (operator, {"do": "change", "role": "admin"}),
        (two, {"do": "link"}),
        (two, {"do": "send-link"}),
    ]
    for path, form in alone:
        answer = await client.post(path, data=form)
        assert (answer.status_code, "none of them alone" in answer.text) == (422, True), form
        assert "/console/link/" not in answer.text
    assert [person.role for person in await services.people.all()] == ["admin", "admin", "operator"]
    change = await change_form(client, two, role="operator")
    for path, form in ((one, {"do": "link"}), (operator, {"do": "link"}), (two, change)):
        assert (await client.post(path, data=form)).status_code in {200, 303}, form


async def test_nobody_changes_their_own_account(services: Services, sign_in: SignIn) -> None:
    client = await sign_in(Role.ADMIN)
    [me] = await services.people.all()
    for act in ("disable", "change", "sign-out"):
        answer = await client.post(f"/console/people/{me.id}", data={"do": act, "role": "operator"})
        assert (answer.status_code, "by another administrator" in answer.text) == (422, True)
    assert (await client.get("/console")).status_code == 200


async def test_shop_whose_number_has_ten_digits_is_chosen_like_any_other(
    services: Services, shops: dict[int, str], sign_in: SignIn
) -> None:
    far = 2_147_483_647
    await services.routing.create(FULL_ACCESS, far, {"organization_bin": shops[OWN]}, reason="")
    client = await sign_in(Role.ADMIN)
    chosen = {name: value for name, value in ACCOUNT.items() if name != f"shop-{OWN}"} | {f"shop-{far}": "yes"}
    await client.post("/console/people/new", data={**chosen, "role": "operator"})
    [person] = [one for one in await services.people.all() if one.name == ACCOUNT["name"]]
    assert person.shops == [far]
    assert (await client.get("/console/sums", params={"shop": far})).status_code == 200
    for none in (far + 1, "12345678901"):
        assert (await client.get("/console/sums", params={"shop": none})).status_code == 422
