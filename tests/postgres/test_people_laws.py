"""What the database refuses of accounts, links and sessions, whatever the code does."""

import asyncpg
import pytest

from tests.support.books import law_of, written_down

PERSON = (
    "INSERT INTO person (id, email, name, role, shops, password_hash, password_set_at)"
    " VALUES (1, 'a@b.kz', 'A', 'operator', NULL, '$argon2id$x', now())"
)
RECORDED = written_down("person:1")
LINK = "INSERT INTO person_link (digest, person_id, expires_at) VALUES (repeat('a', 64), 1, now() + interval '1 day')"
SESSION = (
    "INSERT INTO person_session (digest, person_id, expires_at)"
    " VALUES (repeat('b', 64), 1, now() + interval '12 hours')"
)

BY_PROVIDER = (
    "INSERT INTO person_session (digest, person_id, expires_at, openid_nonce)"
    " VALUES (repeat('d', 64), 1, now() + interval '12 hours', repeat('e', 64))"
)


@pytest.mark.parametrize(
    ("change", "law"),
    [
        ("name = ''", "person_name_check"),
        ("role = 'owner'", "person_role_check"),
        ("role = 'florist'", "person_florist_has_shops"),
        ("role = 'admin', shops = '{8}'", "person_admin_of_all_shops"),
        ("refund_limit = -1", "person_refund_limit_check"),
        ("password_hash = 'md5'", "person_password_hash_check"),
        ("password_hash = NULL", "person_password_has_its_time"),
        ("email = 'c@d.kz'", "person_fixed"),
        ("created_at = now() - interval '1 day'", "person_fixed"),
        ("id = 2", "person_fixed"),
        ("name = 'B'", "change_is_audited"),
    ],
)
async def test_account_keeps_its_laws(sql: asyncpg.Connection, change: str, law: str) -> None:
    assert await law_of(sql, PERSON, RECORDED, f"UPDATE person SET {change}") == law


async def test_account_needs_its_entry_in_the_record(sql: asyncpg.Connection) -> None:
    assert await law_of(sql, PERSON) == "change_is_audited"
    assert await law_of(sql, PERSON, RECORDED) is None


@pytest.mark.parametrize("email", ["A@b.kz", "nobody", "a @b.kz"])
async def test_address_is_one(sql: asyncpg.Connection, email: str) -> None:
    assert await law_of(sql, PERSON.replace("a@b.kz", email)) == "person_email_check"


async def test_address_is_of_one_account(sql: asyncpg.Connection) -> None:
    again = PERSON.replace("(1, ", "(2, ")
    assert await law_of(sql, PERSON, again) == "person_email"


async def test_who_is_disabled_stays_so(sql: asyncpg.Connection) -> None:
    disabled = "UPDATE person SET disabled_at = now()"
    assert await law_of(sql, PERSON, disabled, "UPDATE person SET disabled_at = NULL") == "person_fixed"
    assert await law_of(sql, PERSON, disabled, SESSION) == "person_session_of_an_account"
    assert await law_of(sql, PERSON, disabled, LINK) == "person_link_of_an_account"


@pytest.mark.parametrize("table", ["person", "person_link", "person_session"])
@pytest.mark.parametrize("change", ["DELETE FROM", "TRUNCATE"])
async def test_nothing_of_it_is_removed(sql: asyncpg.Connection, table: str, change: str) -> None:
    cascade = " CASCADE" if change == "TRUNCATE" else ""
    asked = "SET CONSTRAINTS ALL IMMEDIATE"
    law = await law_of(sql, PERSON, RECORDED, asked, LINK, SESSION, f"{change} {table}{cascade}", commit=False)
    assert law is not None
    assert law.endswith("_insert_only")


@pytest.mark.parametrize(
    ("statements", "law"),
    [
        ((LINK,), None),
        ((LINK.replace("1 day", "4 days"),), "person_link_is_short"),
        ((LINK.replace("'a'", "'z'"),), "person_link_digest_check"),
        ((LINK, "UPDATE person_link SET expires_at = expires_at + interval '1 hour'"), "person_link_once"),
        ((LINK, "UPDATE person_link SET used_at = now()", "UPDATE person_link SET used_at = NULL"), "person_link_once"),
        ((SESSION,), None),
        ((SESSION.replace("12 hours", "13 hours"),), "person_session_is_short"),
        ((SESSION, "UPDATE person_session SET expires_at = expires_at - interval '1 hour'"), "person_session_fixed"),
        ((SESSION, "UPDATE person_session SET proved_at = now() + interval '1 hour'"), "person_session_fixed"),
        ((SESSION, "UPDATE person_session SET proved_at = now() - interval '1 hour'"), "person_session_fixed"),
        ((BY_PROVIDER, BY_PROVIDER.replace("'d'", "'f'")), "person_session_openid_nonce_key"),
        ((SESSION, "UPDATE person_session SET openid_nonce = repeat('e', 64)"), "person_session_fixed"),
        ((BY_PROVIDER.replace("'e'", "'x'"),), "person_session_openid_nonce_check"),
        (
            (
                SESSION.replace("expires_at)", "expires_at, proved_at)").replace(
                    "hours')", "hours', now() + interval '1 s')"
                ),
            ),
            "person_session_fixed",
        ),
        (
            (SESSION, "UPDATE person_session SET ended_at = now()", "UPDATE person_session SET ended_at = NULL"),
            "person_session_fixed",
        ),
    ],
)
async def test_links_and_sessions_keep_their_laws(
    sql: asyncpg.Connection, statements: tuple[str, ...], law: str | None
) -> None:
    assert await law_of(sql, PERSON, RECORDED, *statements) == law


async def test_account_without_a_password_has_sessions_by_a_provider_alone(sql: asyncpg.Connection) -> None:
    bare = PERSON.replace("'$argon2id$x', now()", "NULL, NULL")
    assert await law_of(sql, bare, RECORDED, SESSION) == "person_session_of_an_account"
    assert await law_of(sql, bare, RECORDED, BY_PROVIDER) is None


@pytest.mark.parametrize(
    ("change", "ends"),
    [
        ("role = 'accountant'", True),
        ("shops = '{8}'", True),
        ("refund_limit = 100", True),
        ("password_hash = '$argon2id$y'", True),
        ("disabled_at = now()", True),
        ("name = 'B'", False),
    ],
)
async def test_sessions_end_with_what_they_were_begun_with(sql: asyncpg.Connection, change: str, ends: bool) -> None:
    async with sql.transaction():
        for statement in (PERSON, RECORDED, SESSION):
            await sql.execute(statement)
    async with sql.transaction():
        await sql.execute(f"UPDATE person SET {change}")
        await sql.execute(RECORDED)
    assert (await sql.fetchval("SELECT ended_at FROM person_session") is not None) == ends


async def test_newer_link_uses_the_older_one_up(sql: asyncpg.Connection) -> None:
    async with sql.transaction():
        for statement in (PERSON, RECORDED, LINK, LINK.replace("'a'", "'c'")):
            await sql.execute(statement)
    open_links = await sql.fetch("SELECT digest FROM person_link WHERE used_at IS NULL")
    assert [row["digest"] for row in open_links] == ["c" * 64]
