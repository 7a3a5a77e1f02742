"""What the database refuses of changes of routing, whatever the code does."""

import asyncpg
import pytest

from tests.support.books import BIN, OTHER_BIN, beyond_the_law, insert_sample_rows, law_of, written_down

CHANGE = "route_change:00000000-0000-7000-8000-00000000000a"
PEOPLE = (
    "INSERT INTO person (id, email, name, role) VALUES"
    " (1, 'a@b.kz', 'A', 'admin'), (2, 'c@d.kz', 'C', 'admin'), (3, 'e@f.kz', 'E', 'operator')"
)
PROPOSE = f"""
    INSERT INTO route_change (id, shop_id, on_version, organization_bin, device_token, device_token_id, is_active, name,
                              city, description, reason, proposed_by, expires_at)
    VALUES ('{CHANGE.partition(":")[2]}', 8, 1, '{OTHER_BIN}', '22222222…', 2, true, '', '', '', 'a reason', 1,
            now() + interval '3 days')
"""
APPLY = "UPDATE route_change SET state = 'applied', decided_by = 2, decided_at = now()"
HISTORY = f"""
    INSERT INTO payment_config_history
    SELECT shop_id, 2, '{OTHER_BIN}', '22222222…', 2, is_active, provider, name, city, description,
           'c@d.kz', ''
    FROM payment_config WHERE shop_id = 8
"""
OTHER_ROUTE = f"organization_bin = '{OTHER_BIN}', device_token = '22222222…', device_token_id = 2"
ROUTE = f"UPDATE payment_config SET {OTHER_ROUTE}, version = version + 1 WHERE shop_id = 8"
ONE_IS_ENOUGH = "UPDATE route_rule SET needs_two = false"
OTHER_TOKEN, NO_TOKEN = "'22222222…', 2", "NULL, NULL"
RECORDED = written_down(CHANGE)
CHANGED = written_down("payment_config:8")


@pytest.fixture
async def books(sql: asyncpg.Connection) -> asyncpg.Connection:
    """A shop, two administrators and an operator, a change that waits, and the rule that two are needed."""
    await insert_sample_rows(sql)
    rule = "INSERT INTO route_rule (id, needs_two) VALUES (1, true)"
    await beyond_the_law(sql, PEOPLE, rule, PROPOSE)
    return sql


async def test_change_that_two_people_stand_behind_is_applied(books: asyncpg.Connection) -> None:
    assert await law_of(books, APPLY, HISTORY, ROUTE, RECORDED, CHANGED) is None


@pytest.mark.parametrize(
    "change",
    [
        OTHER_ROUTE,
        "device_token_id = 2, device_token = '22222222…'",
        "device_token_id = NULL, device_token = NULL",
    ],
)
async def test_where_money_goes_changes_by_no_other_way(books: asyncpg.Connection, change: str) -> None:
    route = f"UPDATE payment_config SET {change}, version = 2 WHERE shop_id = 8"
    made = HISTORY.replace(f"'{OTHER_BIN}', '22222222…', 2", "organization_bin, device_token, device_token_id")
    assert await law_of(books, route, made, CHANGED) == "route_change_needs_two"
    without_rule = "UPDATE route_rule SET needs_two = false"
    assert await law_of(books, without_rule, written_down("route_rule:1"), route, made, CHANGED) is None


async def test_what_is_no_route_changes_without_a_second_person(books: asyncpg.Connection) -> None:
    named = "UPDATE payment_config SET name = 'Roses', version = 2 WHERE shop_id = 8"
    assert await law_of(books, HISTORY.replace(OTHER_BIN, BIN), named, CHANGED) is None


async def test_rule_is_in_the_record(books: asyncpg.Connection) -> None:
    assert await law_of(books, "UPDATE route_rule SET needs_two = false") == "change_is_audited"
    assert await law_of(books, "DELETE FROM route_rule") == "route_rule_insert_only"


@pytest.mark.parametrize(
    ("statement", "law"),
    [
        (APPLY.replace("decided_by = 2", "decided_by = 1"), "route_change_by_two"),
        (APPLY.replace("decided_by = 2", "decided_by = 3"), "route_change_by_admins"),
        (APPLY.replace("decided_by = 2", "decided_by = NULL"), "route_change_by_admins"),
        (APPLY, "route_change_is_applied"),  # and no new version was made
        (APPLY.replace("now()", "now() - interval '1 minute'"), "route_change_once"),
        (f"{APPLY}, organization_bin = '{BIN}'", "route_change_once"),
        ("UPDATE route_change SET reason = 'another'", "route_change_once"),
        ("UPDATE route_change SET state = 'overdue', decided_at = now()", "route_change_in_time"),
        ("DELETE FROM route_change", "route_change_insert_only"),
    ],
)
async def test_change_is_decided_by_the_laws(books: asyncpg.Connection, statement: str, law: str) -> None:
    assert await law_of(books, statement, RECORDED) == law


async def test_change_is_decided_once(books: asyncpg.Connection) -> None:
    refuse = "UPDATE route_change SET state = 'refused', decided_by = 1, decided_at = now()"
    assert await law_of(books, refuse, RECORDED) is None
    assert await law_of(books, refuse, APPLY, RECORDED) == "route_change_once"


async def test_change_that_expired_is_not_applied(books: asyncpg.Connection) -> None:
    old = "UPDATE route_change SET created_at = now() - interval '4 days', expires_at = now() - interval '1 day'"
    await beyond_the_law(books, old)
    assert await law_of(books, APPLY, HISTORY, ROUTE, RECORDED, CHANGED) == "route_change_in_time"


async def test_change_of_somebody_who_may_not_any_more_is_not_applied(books: asyncpg.Connection) -> None:
    await beyond_the_law(books, "UPDATE person SET disabled_at = now() WHERE id = 1")
    assert await law_of(books, APPLY, HISTORY, ROUTE, RECORDED, CHANGED) == "route_change_in_time"


async def test_change_is_applied_only_onto_the_route_it_was_proposed_for(books: asyncpg.Connection) -> None:
    """The route changed meanwhile: what was proposed for version 1 is not laid over version 2."""
    third = HISTORY.replace("shop_id, 2", "shop_id, 3")
    await beyond_the_law(
        books,
        HISTORY.replace(f"'{OTHER_BIN}', '22222222…', 2", f"'{BIN}', '11111111…', 1"),
        "UPDATE payment_config SET version = 2 WHERE shop_id = 8",
    )
    await beyond_the_law(books, ONE_IS_ENOUGH)
    assert await law_of(books, APPLY, third, ROUTE, RECORDED, CHANGED) == "route_change_is_applied"


@pytest.mark.parametrize(("proposed", "made"), [(OTHER_BIN, "210440028324"), (OTHER_TOKEN, NO_TOKEN)])
async def test_what_is_applied_is_what_was_proposed(books: asyncpg.Connection, proposed: str, made: str) -> None:
    route = ROUTE.replace("device_token = '22222222…', device_token_id = 2", "(device_token, device_token_id) = ({})")
    route = route.format(OTHER_TOKEN).replace(proposed, made)
    statements = [APPLY, HISTORY.replace(proposed, made), route, RECORDED, CHANGED]
    assert await law_of(books, *statements) in {"route_change_is_applied", "route_change_needs_two"}
    await beyond_the_law(books, ONE_IS_ENOUGH)
    assert await law_of(books, *statements) == "route_change_is_applied"


async def test_one_change_of_a_shop_waits_at_a_time_and_for_the_route_of_today(books: asyncpg.Connection) -> None:
    again = PROPOSE.replace("00000000000a", "00000000000b")
    assert await law_of(books, again) == "route_change_one_waiting"
    refuse = "UPDATE route_change SET state = 'refused', decided_by = 1, decided_at = now()"
    recorded = written_down(CHANGE, CHANGE.replace("00a", "00b"))
    assert await law_of(books, refuse, again, recorded) is None
    assert await law_of(books, refuse, again, RECORDED) == "change_is_audited"
    assert await law_of(books, refuse, again.replace("8, 1,", "8, 2,")) == "route_change_of_this_route"
    assert await law_of(books, refuse, again.replace("'a reason', 1", "'a reason', 3")) == "route_change_by_admins"
    assert await law_of(books, refuse, again.replace("3 days", "8 days")) == "route_change_is_short"
    assert await law_of(books, refuse, again.replace("'a reason'", "' '")) == "route_change_reason_check"
    applied = again.replace("expires_at)", "expires_at, state, decided_by, decided_at)")
    applied = applied.replace("'3 days')", "'3 days', 'applied', 2, now())")
    assert await law_of(books, refuse, applied) == "route_change_starts_waiting"
