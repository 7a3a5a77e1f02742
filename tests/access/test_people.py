"""Accounts, the links that set a password, and sessions: when each of them ends."""

import asyncio
import re
from typing import Any

import asyncpg
import pytest

from payment_service.access.attempts import OF_ACCOUNT, OF_ADDRESS, SignInLimits
from payment_service.access.models import Person
from payment_service.access.people import RIGHTS, People, Right, Role, caller_of, rights_of
from payment_service.access.service import Scope
from payment_service.access.sessions import Sessions
from payment_service.audit.comparing import compare
from payment_service.errors import InvalidInput, NotAuthenticated, RateLimited
from payment_service.postgres.visibility import ALL_SHOPS, Shops
from payment_service.services import Services
from tests.support.database import without_laws

pytestmark = pytest.mark.usefixtures("quick_hashes")

PASSWORD = "peonies and roses"
ADDRESS = "203.0.113.7"


async def made(
    services: Services, role: Role = Role.OPERATOR, shops: Shops = ALL_SHOPS, email: str = "aigul@example.kz"
) -> Person:
    """A person with a password."""
    person = await services.people.add(email, "Айгуль", role, shops)
    token = await services.people.link(person.id)
    assert token
    return await services.people.set_password(token, PASSWORD)


async def signed_in(services: Services, person: Person) -> str:
    return await services.sessions.sign_in(person.email, PASSWORD, address=ADDRESS)


async def holds(services: Services, token: str) -> bool:
    try:
        await services.sessions.of(token)
    except NotAuthenticated:
        return False
    return True


async def recorded(sql: asyncpg.Connection) -> list[tuple[str, str]]:
    rows = await sql.fetch("SELECT operation_type, actor FROM payment_log WHERE subject LIKE 'person:%' ORDER BY id")
    return [(row["operation_type"], row["actor"]) for row in rows]


# --- links


async def test_link_sets_the_password_once(services: Services) -> None:
    person = await services.people.add("a@b.kz", "A", Role.OPERATOR, ALL_SHOPS)
    token = await services.people.link(person.id)
    assert token
    await services.people.set_password(token, PASSWORD)
    assert await services.people.of_link(token) is None
    with pytest.raises(NotAuthenticated):
        await services.people.set_password(token, "another one of mine")
    await services.sessions.sign_in("a@b.kz", PASSWORD, address=ADDRESS)


async def test_link_that_is_used_twice_at_once_sets_one_password(services: Services) -> None:
    person = await services.people.add("a@b.kz", "A", Role.OPERATOR, ALL_SHOPS)
    token = str(await services.people.link(person.id))
    ends = await asyncio.gather(
        *(services.people.set_password(token, f"{PASSWORD} {n}") for n in range(2)), return_exceptions=True
    )
    assert sorted(type(end).__name__ for end in ends) == ["NotAuthenticated", "Person"]


async def test_newer_link_is_the_one_that_works(services: Services) -> None:
    person = await services.people.add("a@b.kz", "A", Role.OPERATOR, ALL_SHOPS)
    older, newer = str(await services.people.link(person.id)), str(await services.people.link(person.id))
    assert await services.people.of_link(older) is None
    assert await services.people.of_link(newer) is not None


async def test_link_is_over_after_a_day(services: Services, sql: asyncpg.Connection) -> None:
    person = await services.people.add("a@b.kz", "A", Role.OPERATOR, ALL_SHOPS)
    token = str(await services.people.link(person.id))
    async with without_laws(sql):
        await sql.execute("UPDATE person_link SET created_at = created_at - interval '25 hours'")
        await sql.execute("UPDATE person_link SET expires_at = expires_at - interval '25 hours'")
    with pytest.raises(NotAuthenticated):
        await services.people.set_password(token, PASSWORD)


async def test_disabled_account_gets_no_link_and_its_link_is_over(services: Services) -> None:
    person = await services.people.add("a@b.kz", "A", Role.OPERATOR, ALL_SHOPS)
    token = str(await services.people.link(person.id))
    await services.people.disable(person.id)
    assert await services.people.of_link(token) is None
    assert await services.people.link(person.id) is None


@pytest.mark.parametrize("password", ["short", "aaaaaaaaaaaaa", "its-Aigul-again!", "x" * 201])
async def test_password_that_is_easy_to_guess_is_refused_and_the_link_kept(services: Services, password: str) -> None:
    person = await services.people.add("aigul@b.kz", "A", Role.OPERATOR, ALL_SHOPS)
    token = str(await services.people.link(person.id))
    with pytest.raises(InvalidInput):
        await services.people.set_password(token, password)
    assert await services.people.of_link(token) is not None


async def test_secrets_are_kept_as_digests_only(services: Services, sql: asyncpg.Connection) -> None:
    person = await made(services)
    link, session = str(await services.people.link(person.id)), await signed_in(services, person)
    for table in ("person", "person_link", "person_session", "payment_log"):
        rows = str([dict(row) for row in await sql.fetch(f"SELECT * FROM {table}")])
        assert link not in rows
        assert session not in rows
        assert PASSWORD not in rows
    assert re.match(r"\$argon2id\$", await sql.fetchval("SELECT password_hash FROM person"))
    assert "argon2id" not in str(await sql.fetch("SELECT content FROM payment_log"))


# --- accounts


@pytest.mark.parametrize(
    ("email", "name", "role", "shops"),
    [
        ("nobody", "A", "operator", ALL_SHOPS),
        ("a@b.kz", "  ", "operator", ALL_SHOPS),
        ("a@b.kz", "A", "owner", ALL_SHOPS),
        ("a@b.kz", "A", "florist", ALL_SHOPS),
        ("a@b.kz", "A", "admin", frozenset({8})),
        ("a@b.kz", "A", "operator", frozenset({0})),
        ("x" * 60 + "@b.kz", "A", "operator", ALL_SHOPS),
    ],
)
async def test_account_that_cannot_be_is_refused(
    services: Services, email: str, name: str, role: str, shops: Shops
) -> None:
    with pytest.raises(InvalidInput):
        await services.people.add(email, name, role, shops)
    assert await services.people.all() == []


async def test_address_names_one_person_for_good(services: Services) -> None:
    person = await made(services)
    await services.people.disable(person.id)
    with pytest.raises(InvalidInput, match="has an account"):
        await services.people.add(person.email.upper(), "B", Role.OPERATOR, ALL_SHOPS)


@pytest.mark.parametrize("role", [*Role, "a role of tomorrow"])
def test_nobody_without_a_list_of_shops_sees_any_unless_the_role_is_for_all(role: str) -> None:
    caller = caller_of(Person(email="a@b.kz", role=role, shops=None))
    assert (caller.shops is ALL_SHOPS) == (role != Role.FLORIST)
    assert caller_of(Person(email="a@b.kz", role=role, shops=[])).shops == frozenset()


def test_rights_and_scopes_follow_the_role() -> None:
    assert set(RIGHTS) == set(Role)
    assert {role: caller_of(Person(email="a", role=role, shops=[8])).scopes for role in Role} == {
        Role.FLORIST: {Scope.PAYMENTS_READ, Scope.REFUNDS_WRITE},
        Role.OPERATOR: {Scope.PAYMENTS_READ, Scope.PAYMENTS_WRITE, Scope.REFUNDS_WRITE},  # test payments
        Role.ACCOUNTANT: {Scope.PAYMENTS_READ},
        Role.ADMIN: {Scope.PAYMENTS_READ, Scope.PAYMENTS_WRITE, Scope.REFUNDS_WRITE},
    }
    unfamiliar = Person(email="a", role="a role of tomorrow", shops=None)
    assert rights_of(unfamiliar) == frozenset()
    assert caller_of(unfamiliar).scopes == frozenset()


# --- sessions


async def test_session_stands_for_its_person_and_names_them_in_the_record(
    services: Services, sql: asyncpg.Connection
) -> None:
    person = await made(services, Role.FLORIST, frozenset({121038}))
    token = await signed_in(services, person)
    who = await services.sessions.of(token)
    assert (who.person.email, who.caller.shops) == (person.email, frozenset({121038}))
    assert who.may(Right.REFUND)
    assert not who.may(Right.SETTLE)
    assert (await recorded(sql))[-2:] == [("password-set", person.email), ("sign-in", person.email)]


@pytest.mark.parametrize(
    ("email", "password"),
    [("aigul@example.kz", "wrong password"), ("nobody@example.kz", PASSWORD), ("left@example.kz", PASSWORD), ("", "")],
)
async def test_who_may_not_come_in_is_told_the_same(services: Services, email: str, password: str) -> None:
    await made(services)
    left = await made(services, email="left@example.kz")
    await services.people.disable(left.id)
    await services.people.add("new@example.kz", "N", Role.OPERATOR, ALL_SHOPS)
    for who in (email, "new@example.kz"):  # an account without a password, too
        with pytest.raises(NotAuthenticated, match="the e-mail address and the password of an account"):
            await services.sessions.sign_in(who, password, address=ADDRESS)


async def test_wrong_password_is_in_the_record_of_the_account(services: Services, sql: asyncpg.Connection) -> None:
    person = await made(services)
    with pytest.raises(NotAuthenticated):
        await services.sessions.sign_in(person.email, "wrong password", address=ADDRESS)
    assert (await recorded(sql))[-1][0] == "sign-in-refused"


@pytest.mark.parametrize("how", ["sign_out", "password", "role", "shops", "disabled", "admin", "time"])
async def test_session_ends(services: Services, sql: asyncpg.Connection, how: str) -> None:
    person = await made(services, Role.OPERATOR)
    other = await made(services, email="other@example.kz")
    ended, stays = await signed_in(services, person), await signed_in(services, other)
    match how:
        case "sign_out":
            await services.sessions.sign_out(await services.sessions.of(ended))
        case "password":
            token = await services.people.link(person.id)
            assert await holds(services, ended)  # a link that is not used changes nothing
            await services.people.set_password(str(token), "carnations and tulips")
        case "role":
            await services.people.change(person.id, role=Role.ACCOUNTANT)
        case "shops":
            await services.people.change(person.id, shops=frozenset({8}))
        case "disabled":
            await services.people.disable(person.id)
        case "admin":
            await services.people.sign_out(person.id)
        case "time":
            async with without_laws(sql):
                moments = ("created_at", "proved_at", "expires_at")
                older = ", ".join(f"{moment} = {moment} - interval '12 hours'" for moment in moments)
                await sql.execute(f"UPDATE person_session SET {older} WHERE person_id = $1", person.id)
    assert not await holds(services, ended)
    assert await holds(services, stays)


async def test_password_is_asked_for_again_after_ten_minutes(services: Services, sql: asyncpg.Connection) -> None:
    token = await signed_in(services, await made(services))
    assert (await services.sessions.of(token)).has_proved
    async with without_laws(sql):
        await sql.execute("UPDATE person_session SET proved_at = proved_at - interval '601 seconds'")
    who = await services.sessions.of(token)
    assert not who.has_proved
    with pytest.raises(InvalidInput):
        await services.sessions.prove(who, "wrong password", address=ADDRESS)
    assert not (await services.sessions.of(token)).has_proved
    await services.sessions.prove(who, PASSWORD, address=ADDRESS)
    assert (await services.sessions.of(token)).has_proved
    assert ("password-refused", who.person.email) in await recorded(sql)
    async with without_laws(sql):  # the clock was ahead, and is set right
        await sql.execute("UPDATE person_session SET proved_at = now() + interval '1 hour'")
    assert not (await services.sessions.of(token)).has_proved


# --- attempts


def limited(services: Services) -> Sessions:
    return Sessions(services.database, SignInLimits(services.database))


async def attempts(sessions: Sessions, email: str, address: str = ADDRESS, times: int = 1) -> list[str]:
    ends: list[str] = []
    for _ in range(times):
        try:
            await sessions.sign_in(email, "wrong password", address=address)
        except (NotAuthenticated, RateLimited) as error:
            ends.append(type(error).__name__)
    return ends


async def test_passwords_of_an_account_cannot_be_tried_without_end(services: Services) -> None:
    person, sessions = await made(services), limited(services)
    assert set(await attempts(sessions, person.email, times=OF_ACCOUNT.quota)) == {"NotAuthenticated"}
    assert await attempts(sessions, person.email, address="198.51.100.1") == ["RateLimited"]
    with pytest.raises(RateLimited):  # the right one, too: who guesses must not learn when it is right
        await sessions.sign_in(person.email, PASSWORD, address=ADDRESS)


async def test_attempts_are_counted_in_all_processes_together_and_a_network_as_one_address(services: Services) -> None:
    one, other = (SignInLimits(services.database) for _ in range(2))
    for number in range(OF_ADDRESS.quota):
        await (one, other)[number % 2].take(f"2001:db8::{number}", f"{number}@example.kz")
    for limits in (one, other):
        with pytest.raises(RateLimited):
            await limits.take("2001:db8::ffff", "one-more@example.kz")
    for number in range(OF_ACCOUNT.quota):
        await (one, other)[number % 2].take(f"2001:db8:0:{number + 1}::1", "one-more@example.kz")
    with pytest.raises(RateLimited) as refused:
        await one.take("198.51.100.1", "one-more@example.kz")
    assert 0 < refused.value.wait_s <= OF_ACCOUNT.window_s / OF_ACCOUNT.quota
    await one.take("198.51.100.1", "another@example.kz")  # what was refused was counted for nobody


async def test_attempts_at_once_are_not_more_and_what_a_clock_wrote_that_was_ahead_keeps_nobody_out(
    services: Services, sql: asyncpg.Connection
) -> None:
    several = [SignInLimits(services.database) for _ in range(3)]
    tried = [limits.take(f"198.51.100.{number}", "a@example.kz") for limits in several for number in range(6)]
    ends = await asyncio.gather(*tried, return_exceptions=True)
    assert [type(end) for end in ends if end is not None] == [RateLimited] * (len(tried) - OF_ACCOUNT.quota)
    await sql.execute("UPDATE sign_in_limit SET full_at = full_at + interval '1 day'")
    await several[0].take("198.51.100.1", "a@example.kz")
    await sql.execute("UPDATE sign_in_limit SET full_at = now() - interval '1 s'")
    await several[0].take("198.51.100.200", "b@example.kz")
    assert await sql.fetchval("SELECT count(*) FROM sign_in_limit") == 2


async def test_coming_in_uses_no_attempt_up(services: Services) -> None:
    person, sessions = await made(services), limited(services)
    for _ in range(OF_ACCOUNT.quota + 1):
        await sessions.sign_in(person.email, PASSWORD, address=ADDRESS)


async def test_every_change_of_an_account_is_in_the_record(services: Services, sql: asyncpg.Connection) -> None:
    people: People = services.people
    person = await people.add("a@b.kz", "A", Role.OPERATOR, ALL_SHOPS)
    await people.change(person.id, role=Role.FLORIST, shops=frozenset({8}))
    await people.disable(person.id)
    names: list[Any] = [operation for operation, _ in await recorded(sql)]
    assert names == ["person-create", "person-change", "person-disable"]
    assert (await compare(services.database)).problem is None
    assert await people.change(999, role=Role.ADMIN) is None
    assert await people.disable(999) is None
    assert await people.sign_out(999) is None
