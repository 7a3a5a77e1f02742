"""Every law of the schema, broken by plain SQL: code explains, the database forbids."""

import json
import unicodedata
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from payment_service.identifiers import checked_bin, checked_order_id
from payment_service.payments.lifecycle import MOVES, UNDOING, State
from payment_service.refunds.lifecycle import MOVES as REFUND_MOVES
from payment_service.refunds.lifecycle import UNDOING as REFUND_UNDOING
from payment_service.refunds.lifecycle import RefundState
from tests.support.books import (
    BIN,
    CONFIG,
    HISTORY,
    LINE,
    NEW,
    NEW_PAYMENT,
    NEW_REFUND,
    NEW_REPORT,
    OTHER_BIN,
    PAYMENT,
    REFUND,
    beyond_the_law,
    change_by_hand,
    insert,
    insert_sample_rows,
    law_of,
    write_down,
    written_down,
)


@pytest.fixture
async def books(sql: asyncpg.Connection) -> asyncpg.Connection:
    await insert_sample_rows(sql)
    return sql


async def law_of_row(sql: asyncpg.Connection, table: str, row: dict[str, Any], **changes: Any) -> str | None:
    try:
        async with sql.transaction():
            await insert(sql, table, row, **changes)
    except asyncpg.IntegrityConstraintViolationError as error:
        return str(error.column_name or error.constraint_name)
    return None


# --- BIN

digits = st.text("0123456789", min_size=12, max_size=12)
nearly = st.builds(lambda text, last: text[:11] + last, digits, st.sampled_from("0123456789"))
second_weights = digits.filter(lambda text: sum((i + 1) * int(d) for i, d in enumerate(text[:11])) % 11 == 10)
anything = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=14)


def is_valid(text: str) -> bool:
    try:
        checked_bin(text)
    except ValueError:
        return False
    return True


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(nearly | second_weights | anything, min_size=1, max_size=40))
async def test_database_checks_a_bin_as_the_code_does(sql: asyncpg.Connection, texts: list[str]) -> None:
    rows = await sql.fetch(
        "SELECT bin_is_valid(text) AS valid FROM unnest($1::text[]) WITH ORDINALITY AS t (text)", texts
    )
    assert [row["valid"] for row in rows] == [is_valid(text) for text in texts]


@pytest.mark.parametrize("organization_bin", ["920317450732", "", "92031745073", "92031745073x"])
@pytest.mark.parametrize("table", ["payment_config_history", "payment_config"])
async def test_wrong_bin_is_refused(books: asyncpg.Connection, table: str, organization_bin: str) -> None:
    row = HISTORY if table == "payment_config_history" else CONFIG
    law = await law_of_row(books, table, row, shop_id=10, organization_bin=organization_bin)
    assert law == f"{table}_organization_bin_check"


async def test_payment_with_a_wrong_bin_is_refused_even_behind_the_triggers(books: asyncpg.Connection) -> None:
    with pytest.raises(asyncpg.CheckViolationError, match="payment_organization_bin_check"):
        await beyond_the_law(books, "UPDATE payment SET organization_bin = '920317450732'")


async def test_database_sees_an_order_id_as_the_code_does(sql: asyncpg.Connection) -> None:
    """Over every character that this Python knows: the database may know newer ones."""
    signs = [sign for sign in map(chr, range(1, 0x1E000)) if unicodedata.category(sign) not in {"Cn", "Cs", "Cc"}]
    texts = [f"A{sign}" for sign in [*signs, *map(chr, range(0xE0000, 0xE1000)), "и\u0306"]] + ["", " 1", "1  2", "1 2"]
    query = "SELECT text FROM unnest($1::text[]) AS t (text) WHERE NOT order_id_is_seen(text)"
    assert {row["text"] for row in await sql.fetch(query, texts)} == {text for text in texts if not is_seen(text)}


def is_seen(order_id: str) -> bool:
    try:
        return checked_order_id(order_id) == order_id
    except ValueError:
        return False


async def test_order_id_that_cannot_be_told_from_another_is_refused(books: asyncpg.Connection) -> None:
    law = await law_of_row(books, "payment", NEW_PAYMENT, order_id="order-1\u200b")
    assert law == "payment_order_is_seen"
    assert await law_of_row(books, "payment", NEW_PAYMENT, order_id="Заказ № 5 🌷") is None


# --- what is never changed

INSERT_ONLY = ("payment_log", "payment_config_history")


@pytest.mark.parametrize("table", INSERT_ONLY)
@pytest.mark.parametrize("change", ["UPDATE {} SET actor = 'me'", "DELETE FROM {}", "TRUNCATE {} CASCADE"])
async def test_record_is_insert_only(books: asyncpg.Connection, table: str, change: str) -> None:
    await insert(books, "payment_log", LINE)
    assert await law_of(books, change.format(table)) == f"{table}_insert_only"


@pytest.mark.parametrize("view", ["paymentconfig", "paymentlog"])
@pytest.mark.parametrize(
    "change",
    ["UPDATE {} SET provider = 'kaspi'", "DELETE FROM {}", "INSERT INTO {} (shop_id, provider) VALUES (5, 'kaspi')"],
)
async def test_views_are_read_only(books: asyncpg.Connection, view: str, change: str) -> None:
    await insert(books, "payment_log", LINE)
    assert await law_of(books, change.format(view)) == f"{view}_insert_only"


@pytest.mark.parametrize("table", ["payment_config", "payment", "refund", "idempotency_claim", "device_token"])
@pytest.mark.parametrize("change", ["DELETE FROM {}", "TRUNCATE {} CASCADE"])
async def test_nothing_of_the_record_is_deleted(books: asyncpg.Connection, table: str, change: str) -> None:
    await books.execute("INSERT INTO idempotency_claim VALUES ('tests', 'key', 'f', NULL)")
    law = await law_of(books, change.format(table))
    assert law is not None
    assert law.endswith(("_insert_only", "device_token_fixed"))


@pytest.mark.parametrize("change", ["masked = 'x'", "id = DEFAULT"])
async def test_device_token_keeps_its_identity_and_mask(books: asyncpg.Connection, change: str) -> None:
    assert await law_of(books, f"UPDATE device_token SET {change}") == "device_token_fixed"


async def test_device_token_can_be_encrypted_anew(books: asyncpg.Connection) -> None:
    anew = "UPDATE device_token SET ciphertext = 'anew' WHERE id = 1"
    assert await law_of(books, anew, written_down("device_token:1")) is None


# --- what decides who may do what

NEW_KEY = "INSERT INTO api_key (id, name, prefix, digest, scopes) VALUES (1, 'e', 'ps_', repeat('e', 64), '{admin}')"
ENDPOINT = f"INSERT INTO webhook_endpoint (id, url, secret_ciphertext) VALUES ('{NEW}', 'https://a.kz', 'c')"
CHAT = f"INSERT INTO notify_chat (id, channel, address) VALUES ('{NEW}', 'email', 'a@b.kz')"
BINDING = (
    f"INSERT INTO notify_binding (id, chat_id, events, language, created_by) "
    f"VALUES ('{NEW}', '{NEW}', '{{payment.paid}}', 'ru', 'eve')"
)
FINGERPRINT = "INSERT INTO fingerprint_key (id, ciphertext) VALUES (1, 'c')"
AUDITED_CHANGES = {
    "api_key:1": (NEW_KEY,),
    "device_token:1": ("UPDATE device_token SET ciphertext = 'anew' WHERE id = 1",),
    "fingerprint_key:1": (FINGERPRINT,),
    f"webhook_endpoint:{NEW}": (ENDPOINT,),
    f"notify_chat:{NEW}": (CHAT,),
    f"notify_binding:{NEW}": (CHAT, written_down(f"notify_chat:{NEW}"), BINDING),
}


@pytest.mark.parametrize("subject", AUDITED_CHANGES)
async def test_change_without_its_audit_entry_does_not_commit(books: asyncpg.Connection, subject: str) -> None:
    changes = AUDITED_CHANGES[subject]
    assert await law_of(books, *changes) == "change_is_audited"
    assert await law_of(books, *changes, written_down("payment_config:9")) == "change_is_audited"
    assert await law_of(books, *changes, written_down(subject)) is None


@pytest.mark.parametrize(
    ("subject", "change"),
    [
        ("api_key:1", "UPDATE api_key SET scopes = '{admin,secrets:read}'"),
        ("api_key:1", "UPDATE api_key SET shops = NULL, expires_at = NULL"),
        (f"webhook_endpoint:{NEW}", "UPDATE webhook_endpoint SET url = 'https://b.kz'"),
        (f"webhook_endpoint:{NEW}", "UPDATE webhook_endpoint SET secret_ciphertext = 'd'"),
        (f"notify_chat:{NEW}", "UPDATE notify_chat SET address = 'eve@b.kz'"),
        (f"notify_binding:{NEW}", "UPDATE notify_binding SET shop_id = 8"),
        ("fingerprint_key:1", "UPDATE fingerprint_key SET ciphertext = 'd'"),
    ],
)
async def test_entry_tells_what_the_row_holds_now(books: asyncpg.Connection, subject: str, change: str) -> None:
    await beyond_the_law(books, *AUDITED_CHANGES[subject])
    before = written_down(subject).replace(
        "audited_today", f"(VALUES ('{subject}', '{{}}')) AS before (subject, content)"
    )
    assert await law_of(books, change) == "change_is_audited"
    assert await law_of(books, change, before) == "change_is_audited"
    assert await law_of(books, change, written_down(subject)) is None


async def test_change_back_needs_an_entry_of_its_own(books: asyncpg.Connection) -> None:
    """The record has an entry of what the row holds again: of another time."""
    await change_by_hand(books, "api_key:1", NEW_KEY)
    await change_by_hand(books, "api_key:1", "UPDATE api_key SET scopes = '{payments:read}'")
    assert await law_of(books, "UPDATE api_key SET scopes = '{admin}'") == "change_is_audited"


async def test_how_an_endpoint_or_a_chat_fares_needs_no_entry(books: asyncpg.Connection) -> None:
    await beyond_the_law(books, ENDPOINT, CHAT)
    assert await law_of(books, "UPDATE webhook_endpoint SET failing_since = now()") is None
    assert await law_of(books, "UPDATE notify_chat SET failures = 1, next_send_at = now()") is None


@pytest.mark.parametrize(
    ("change", "law"),
    [
        ("DELETE FROM api_key", "api_key_insert_only"),
        ("TRUNCATE api_key CASCADE", "api_key_insert_only"),
        ("UPDATE api_key SET digest = repeat('f', 64)", "api_key_fixed"),
        ("UPDATE api_key SET name = 'mallory'", "api_key_fixed"),
        ("UPDATE api_key SET revoked_at = NULL", "api_key_fixed"),
        ("DELETE FROM notify_chat", "notify_chat_insert_only"),
        ("DELETE FROM notify_binding", "notify_binding_insert_only"),
        ("TRUNCATE notify_binding", "notify_binding_insert_only"),
    ],
)
async def test_keys_and_chats_stay(books: asyncpg.Connection, change: str, law: str) -> None:
    await beyond_the_law(books, NEW_KEY, "UPDATE api_key SET revoked_at = now()", CHAT, BINDING)
    assert await law_of(books, change) == law


async def test_laws_read_the_tables_that_they_were_made_for(books: asyncpg.Connection) -> None:
    loose = await books.fetch(
        "SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND proname NOT LIKE 'fn_pgqueuer%'"
        " AND NOT coalesce(proconfig::text LIKE '%search_path=public, pg_temp%', false)"
    )
    assert [row["proname"] for row in loose] == []
    over_the_record = "CREATE TEMP TABLE payment_log (LIKE public.payment_log INCLUDING ALL) ON COMMIT DROP"
    assert await law_of(books, over_the_record, NEW_KEY, written_down("api_key:1")) == "change_is_audited"


# --- equal requests


@pytest.mark.parametrize("state", ["sending", "unknown"])
async def test_equal_payment_without_a_key_waits_for_the_end_of_the_one_in_flight(
    books: asyncpg.Connection, state: str
) -> None:
    await beyond_the_law(books, f"UPDATE payment SET state = '{state}', reserved_amount = 0")
    for caller in ("tests", "other"):
        assert await law_of_row(books, "payment", NEW_PAYMENT, keyed=False, caller=caller) == "payment_like_in_flight"


@pytest.mark.parametrize(("state", "keyed"), [("sending", True), ("unknown", True), ("pending", False)])
async def test_another_key_and_an_end_that_is_known_let_an_equal_payment_start(
    books: asyncpg.Connection, state: str, keyed: bool
) -> None:
    await beyond_the_law(books, f"UPDATE payment SET state = '{state}', reserved_amount = 0")
    assert await law_of_row(books, "payment", NEW_PAYMENT, keyed=keyed) is None


@pytest.mark.parametrize("state", ["sending", "unknown"])
async def test_equal_refund_without_a_key_waits_for_the_end_of_the_one_in_flight(
    books: asyncpg.Connection, state: str
) -> None:
    await beyond_the_law(books, f"UPDATE refund SET state = '{state}'")
    assert await law_of_row(books, "refund", NEW_REFUND, keyed=False) == "refund_like_in_flight"
    # These start, and meet the law of the sums only because this test writes none.
    assert await law_of_row(books, "refund", NEW_REFUND, keyed=False, fingerprint="other") == "refunds_add_up"
    assert await law_of_row(books, "refund", NEW_REFUND, keyed=True) == "refunds_add_up"


@pytest.mark.parametrize(("length", "law"), [(8183, None), (8184, "payment_metadata_fits")])
async def test_metadata_is_8_kb_of_json_in_bytes_and_not_in_characters(
    books: asyncpg.Connection, length: int, law: str | None
) -> None:
    metadata = json.dumps({"a": "я" * (length // 2) + "x" * (length % 2)}, ensure_ascii=False)
    assert await law_of_row(books, "payment", NEW_PAYMENT, metadata=metadata) == law


async def test_payment_that_held_more_metadata_before_can_still_move(books: asyncpg.Connection) -> None:
    await beyond_the_law(books, "UPDATE payment SET metadata = jsonb_build_object('a', repeat('x', 20000))")
    assert await law_of(books, "UPDATE payment SET next_check_at = now()") is None


# --- routing

OF_SHOP_8 = "WHERE shop_id = 8"
SECOND_TOKEN = "device_token = '22222222…', device_token_id = 2"
NO_TOKEN = "device_token = NULL, device_token_id = NULL"


@pytest.mark.parametrize(
    "change",
    [
        f"organization_bin = '{OTHER_BIN}'",
        "is_active = false",
        "version = version + 2, is_active = false",
        "version = version - 1",
        "version = version + 1, shop_id = 10",
    ],
)
async def test_routing_changes_only_by_the_next_version(books: asyncpg.Connection, change: str) -> None:
    law = await law_of(books, f"UPDATE payment_config SET {change} {OF_SHOP_8}")
    assert law == "payment_config_versioned"


async def test_routing_without_its_line_of_history_does_not_commit(books: asyncpg.Connection) -> None:
    law = await law_of(books, f"UPDATE payment_config SET version = 2, is_active = false {OF_SHOP_8}")
    assert law == "payment_config_shop_id_version_fkey"


async def test_routing_with_its_line_of_history_commits(books: asyncpg.Connection) -> None:
    assert await law_of(books, *new_version("is_active = false")) is None


def new_version(change: str) -> tuple[str, ...]:
    """Statements that change the routing of shop 8 as the law wants it."""
    columns = "shop_id, version, organization_bin, device_token, device_token_id, is_active, name, city, description"
    line = f"INSERT INTO payment_config_history ({columns}, actor) SELECT {columns}, 'tests' FROM payment_config"
    changed = f"UPDATE payment_config SET version = version + 1, {change} {OF_SHOP_8}"
    return changed, f"{line} {OF_SHOP_8}", written_down("payment_config:8")


@pytest.mark.parametrize(
    ("changes", "law"),
    [
        ({"shop_id": 8}, "payment_config_shop_id_key"),
        ({"shop_id": 0}, "payment_config_shop_id_check"),
        ({"shop_id": 10, "provider": "other"}, "payment_config_provider_check"),
        ({"shop_id": 10, "device_token_id": None}, "payment_config_check"),
        ({"shop_id": 10, "device_token": None}, "payment_config_check"),
        ({"shop_id": 10, "device_token_id": 77}, "payment_config_device_token_id_fkey"),
        ({"shop_id": 10}, "payment_config_shop_id_version_fkey"),
    ],
)
async def test_routing_row_that_breaks_a_law_is_refused(
    books: asyncpg.Connection, changes: dict[str, Any], law: str
) -> None:
    assert await law_of_row(books, "payment_config", CONFIG, **changes) == law


@pytest.mark.parametrize(
    ("changes", "law"),
    [
        ({}, "payment_config_history_pkey"),
        ({"shop_id": -1}, "payment_config_history_shop_id_check"),
        ({"version": 0}, "payment_config_history_version_check"),
        ({"version": 2, "provider": "other"}, "payment_config_history_provider_check"),
        ({"version": 2, "device_token_id": None}, "payment_config_history_check"),
        ({"version": 2, "device_token_id": 77}, "payment_config_history_device_token_id_fkey"),
    ],
)
async def test_line_of_history_that_breaks_a_law_is_refused(
    books: asyncpg.Connection, changes: dict[str, Any], law: str
) -> None:
    assert await law_of_row(books, "payment_config_history", HISTORY, **changes) == law


# --- a payment starts on today's route

ROUTE = "payment_route_is_current"


@pytest.mark.parametrize(
    ("changes", "law"),
    [
        ({"shop_id": 77}, ROUTE),
        ({"route_version": 2}, ROUTE),
        ({"provider": "other"}, ROUTE),
        ({"organization_bin": OTHER_BIN}, ROUTE),
        ({"device_token_id": 2}, ROUTE),
        ({"device_token_id": None}, ROUTE),
        ({"shop_id": 9, "organization_bin": OTHER_BIN}, ROUTE),
        ({"state": "pending", "external_id": "5"}, "payment_starts_sending"),
        ({"state": "unknown"}, "payment_starts_sending"),
        ({"refunded_amount": 1}, "payment_starts_sending"),
        ({"reserved_amount": 1}, "payment_starts_sending"),
        ({"amount": 0}, "payment_amount_check"),
        ({"amount": 10_000_000_000}, "payment_amount_check"),
        ({"method": "other"}, "payment_method_check"),
        ({"method": "link"}, "payment_phone_fits_method"),
        ({"phone_last4": None}, "payment_phone_fits_method"),
        ({"phone_last4": "45x5"}, "payment_phone_last4_check"),
        (
            {
                "shop_id": 9,
                "organization_bin": OTHER_BIN,
                "device_token_id": None,
                "method": "link",
                "phone_last4": None,
            },
            "payment_link_has_token",
        ),
        ({"failure": "not_sent"}, "payment_failure_fits_state"),
        ({"failure": "other"}, "payment_failure_check"),
        ({"order_id": ""}, "payment_order_id_check"),
        ({"metadata": "[]"}, "payment_metadata_check"),
        ({"external_id": "111"}, "payment_external_id"),
        ({"id": PAYMENT}, "payment_pkey"),
        ({}, None),
        ({"method": "link", "phone_last4": None}, None),
        ({"shop_id": 9, "organization_bin": OTHER_BIN, "device_token_id": None}, None),
    ],
)
async def test_payment_starts_only_as_the_laws_allow(
    books: asyncpg.Connection, changes: dict[str, Any], law: str | None
) -> None:
    assert await law_of_row(books, "payment", NEW_PAYMENT, **changes) == law


async def test_payment_of_an_inactive_shop_is_refused(books: asyncpg.Connection) -> None:
    async with books.transaction():
        for statement in new_version("is_active = false"):
            await books.execute(statement)
    assert await law_of_row(books, "payment", NEW_PAYMENT, route_version=2) == ROUTE


async def test_payment_on_yesterdays_route_is_refused(books: asyncpg.Connection) -> None:
    async with books.transaction():
        for statement in new_version(f"organization_bin = '{OTHER_BIN}', {SECOND_TOKEN}"):
            await books.execute(statement)
    assert await law_of_row(books, "payment", NEW_PAYMENT) == ROUTE
    today = {"route_version": 2, "organization_bin": OTHER_BIN, "device_token_id": 2}
    assert await law_of_row(books, "payment", NEW_PAYMENT, **today) is None


@pytest.mark.parametrize(
    ("change", "law"),
    [
        (f"organization_bin = '{OTHER_BIN}'", "token_of_its_bin"),
        (f"organization_bin = '{OTHER_BIN}', {SECOND_TOKEN}", None),
        (f"organization_bin = '{OTHER_BIN}', {NO_TOKEN}", None),
        (SECOND_TOKEN, None),
        ("name = 'Roses'", None),
    ],
)
async def test_token_stays_with_its_bin(books: asyncpg.Connection, change: str, law: str | None) -> None:
    assert await law_of(books, *new_version(change)) == law


async def test_token_of_another_shop_is_no_token_of_another_bin(books: asyncpg.Connection) -> None:
    first_token = "device_token = '11111111…', device_token_id = 1"
    taken = [statement.replace("= 8", "= 9") for statement in new_version(first_token)]
    assert await law_of(books, *taken) == "token_of_its_bin"
    # And not by way of a version without it.
    async with books.transaction():
        for statement in new_version(f"organization_bin = '{OTHER_BIN}', {NO_TOKEN}"):
            await books.execute(statement)
    assert await law_of(books, *new_version(first_token)) == "token_of_its_bin"


@pytest.mark.parametrize("state", ["sending", "pending", "unknown"])
async def test_order_has_at_most_one_open_payment(books: asyncpg.Connection, state: str) -> None:
    await beyond_the_law(books, f"UPDATE payment SET reserved_amount = 0, state = '{state}'")
    law = await law_of_row(books, "payment", NEW_PAYMENT, order_id="order-1")
    assert law == "payment_one_open_per_order"


@pytest.mark.parametrize("state", ["paid", "cancelled"])
async def test_order_whose_payment_ended_may_have_another(books: asyncpg.Connection, state: str) -> None:
    await beyond_the_law(books, f"UPDATE payment SET state = '{state}'")
    assert await law_of_row(books, "payment", NEW_PAYMENT, order_id="order-1") is None


# --- what a payment keeps


@pytest.mark.parametrize(
    "change",
    [
        "id = gen_random_uuid()",
        "method = 'link', phone_last4 = NULL",
        "shop_id = 9",
        "route_version = 2",
        "provider = 'other'",
        f"organization_bin = '{OTHER_BIN}'",
        "device_token_id = 2",
        "device_token_id = NULL",
        "amount = 10001",
        "created_at = now()",
        "caller = 'other'",
        "short_code = 'X'",
    ],
)
async def test_route_amount_and_origin_of_a_payment_are_pinned(books: asyncpg.Connection, change: str) -> None:
    assert await law_of(books, f"UPDATE payment SET {change}") == "payment_route_is_pinned"


@pytest.mark.parametrize("change", ["'222'", "NULL"])
async def test_external_id_is_fixed(books: asyncpg.Connection, change: str) -> None:
    assert await law_of(books, f"UPDATE payment SET external_id = {change}") == "payment_external_id_is_fixed"


async def test_external_id_is_unique(books: asyncpg.Connection) -> None:
    await insert(books, "payment", NEW_PAYMENT)
    law = await law_of(books, "UPDATE payment SET external_id = '111' WHERE external_id IS NULL")
    assert law == "payment_external_id"


@pytest.mark.parametrize("state", ["pending", "paid", "cancelled"])
async def test_payment_that_the_provider_took_on_has_an_external_id(books: asyncpg.Connection, state: str) -> None:
    await insert(books, "payment", NEW_PAYMENT)
    with pytest.raises(asyncpg.CheckViolationError, match="payment_is_known_to_provider"):
        await beyond_the_law(books, f"UPDATE payment SET state = '{state}' WHERE external_id IS NULL")


async def test_update_moves_the_time_of_change(books: asyncpg.Connection) -> None:
    before = await books.fetchval("SELECT updated_at FROM payment")
    await books.execute("UPDATE payment SET checks = 1, updated_at = 'epoch'")
    assert await books.fetchval("SELECT updated_at FROM payment") > before


# --- moves


def to_state(table: str, state: str) -> str:
    failure = "'settled'" if state == "failed" else "NULL"
    return f"UPDATE {table} SET state = '{state}', failure = {failure}"


@pytest.mark.parametrize("before", State)
@pytest.mark.parametrize("after", State)
async def test_payment_makes_only_the_moves_of_the_table(
    books: asyncpg.Connection, before: State, after: State
) -> None:
    await beyond_the_law(books, to_state("payment", before))
    law = await law_of(books, to_state("payment", after), commit=False)
    assert law == (None if before is after or (before, after) in MOVES else "payment_moves")


@pytest.mark.parametrize("before", RefundState)
@pytest.mark.parametrize("after", RefundState)
async def test_refund_makes_only_the_moves_of_the_table(
    books: asyncpg.Connection, before: RefundState, after: RefundState
) -> None:
    await beyond_the_law(books, to_state("refund", before))
    law = await law_of(books, to_state("refund", after), commit=False)
    assert law == (None if before is after or (before, after) in REFUND_MOVES else "refund_moves")


async def test_payment_that_failed_is_open_again_only_when_a_person_had_called_it_failed(
    books: asyncpg.Connection,
) -> None:
    await beyond_the_law(books, "UPDATE payment SET state = 'failed', failure = 'declined'")
    assert await law_of(books, to_state("payment", "pending"), commit=False) == "payment_moves"


async def test_refund_that_failed_was_made_only_when_a_person_had_called_it_failed(books: asyncpg.Connection) -> None:
    await beyond_the_law(books, "UPDATE refund SET state = 'failed', failure = 'rejected'")
    assert await law_of(books, to_state("refund", "succeeded"), commit=False) == "refund_moves"


def by_hand(what: str, actor: str, state: str, refund: object = None) -> str:
    return (
        audited(state, refund)
        .replace("'test'", f"'{what}'")
        .replace("'tests'", f"'{actor}'")
        .replace("state)", "state, reason)")
        .replace(f"'{state}')", f"'{state}', 'why')")
    )


@pytest.mark.parametrize("before", [state for state in State if state not in {State.SENDING, State.UNKNOWN}])
async def test_payment_goes_back_to_unknown_only_by_undoing_a_settlement(
    books: asyncpg.Connection, before: State
) -> None:
    assert (before, State.UNKNOWN) in UNDOING
    await beyond_the_law(
        books, to_state("payment", "unknown"), "DELETE FROM refund", "UPDATE payment SET reserved_amount = 0"
    )
    settled = by_hand("settle", "aigul", before)
    await beyond_the_law(books, settled, to_state("payment", before), "UPDATE payment SET moved_at = now()")
    back = to_state("payment", "unknown")
    assert await law_of(books, back, audited("unknown")) == "move_is_audited"
    assert await law_of(books, back, by_hand("settle-undo", "aigul", "unknown")) == "settlement_undone_by_another"
    assert await law_of(books, back, by_hand("settle-undo", "dana", "unknown")) is None
    assert await law_of(books, f"{back}, external_id = NULL") == "payment_external_id_is_fixed"
    await beyond_the_law(books, "UPDATE payment SET reserved_amount = 1")
    assert await law_of(books, back) == "payment_undone_unrefunded"
    await beyond_the_law(books, "UPDATE payment SET moved_at = now() + interval '1 second'")  # it moved on since
    assert await law_of(books, back) == "payment_moves"


async def test_settlement_that_a_client_reports_is_none(books: asyncpg.Connection) -> None:
    await beyond_the_law(
        books,
        "DELETE FROM refund",
        by_hand("settle", "aigul", State.PAID).replace("'service'", "'client'"),
        "UPDATE payment SET state = 'paid', reserved_amount = 0, moved_at = now()",
    )
    undo = by_hand("settle-undo", "dana", "unknown")
    assert await law_of(books, to_state("payment", "unknown"), undo) == "payment_moves"


async def test_settlement_that_has_left_the_record_is_undone_by_nobody(books: asyncpg.Connection) -> None:
    await beyond_the_law(books, "DELETE FROM refund", "UPDATE payment SET reserved_amount = 0")
    await beyond_the_law(books, "UPDATE payment SET state = 'paid', id_from_settlement = true")
    back = f"{to_state('payment', 'unknown')}, external_id = NULL, id_from_settlement = false"
    undo = by_hand("settle-undo", "dana", "unknown")
    assert await law_of(books, back, undo) == "settlement_undone_by_another"


@pytest.mark.parametrize("before", [RefundState.SUCCEEDED, RefundState.FAILED])
async def test_refund_goes_back_to_unknown_only_by_undoing_a_settlement(
    books: asyncpg.Connection, before: RefundState
) -> None:
    assert (before, RefundState.UNKNOWN) in REFUND_UNDOING
    settled = by_hand("settle", "aigul", before, REFUND)
    await beyond_the_law(books, settled, to_state("refund", before), "UPDATE refund SET moved_at = now()")
    back, undo = to_state("refund", "unknown"), by_hand("settle-undo", "dana", "unknown", REFUND)
    assert await law_of(books, back, undo) is None
    assert await law_of(books, back, undo.replace("dana", "aigul")) == "settlement_undone_by_another"
    await beyond_the_law(books, "UPDATE payment SET state = 'unknown'")
    assert await law_of(books, back, undo) == "refund_of_paid_payment"


async def test_id_of_a_settlement_is_taken_away_only_with_it(books: asyncpg.Connection) -> None:
    assert await law_of(books, "UPDATE payment SET id_from_settlement = true") == "payment_id_from_settlement"
    await beyond_the_law(books, "UPDATE payment SET id_from_settlement = true")
    assert await law_of(books, "UPDATE payment SET id_from_settlement = false") == "payment_id_from_settlement"
    assert await law_of(books, "UPDATE payment SET external_id = NULL") == "payment_external_id_is_fixed"


@pytest.mark.parametrize("change", ["state = 'unknown'", "state = 'sending'", "external_id = NULL, state = 'failed'"])
async def test_id_of_a_settlement_is_there_and_settled(books: asyncpg.Connection, change: str) -> None:
    failure = ", failure = 'settled'" if "failed" in change else ""
    with pytest.raises(asyncpg.CheckViolationError, match="payment_id_from_settlement_is_settled"):
        await beyond_the_law(books, f"UPDATE payment SET id_from_settlement = true, {change}{failure}")


@pytest.mark.parametrize("table", ["payment", "refund"])
@pytest.mark.parametrize("change", ["failure = 'rejected'", "state = 'failed', failure = NULL"])
async def test_failure_and_state_fit_each_other(books: asyncpg.Connection, table: str, change: str) -> None:
    with pytest.raises(asyncpg.CheckViolationError, match=f"{table}_failure_fits_state"):
        await beyond_the_law(books, f"UPDATE {table} SET {change}")


@pytest.mark.parametrize("table", ["payment", "refund"])
async def test_state_nobody_knows_is_refused(books: asyncpg.Connection, table: str) -> None:
    with pytest.raises(asyncpg.CheckViolationError, match=f"{table}_state_check"):
        await beyond_the_law(books, f"UPDATE {table} SET state = 'lost'")


AUDITED = f"""
    INSERT INTO payment_log (operation_type, actor, source, payment_id, refund_id, state)
    VALUES ('test', 'tests', 'service', '{PAYMENT}', {{refund}}, '{{state}}')
"""


def audited(state: str, refund: object = None) -> str:
    return AUDITED.format(state=state, refund=f"'{refund}'" if refund else "NULL")


async def test_payment_move_without_its_audit_entry_does_not_commit(books: asyncpg.Connection) -> None:
    await beyond_the_law(books, to_state("payment", "pending"))
    assert await law_of(books, to_state("payment", "paid")) == "move_is_audited"


@pytest.mark.parametrize(
    "entry", [audited("pending"), audited("paid", REFUND), audited("paid").replace(str(PAYMENT), str(REFUND))]
)
async def test_audit_entry_of_something_else_does_not_stand_for_a_move(books: asyncpg.Connection, entry: str) -> None:
    await beyond_the_law(books, to_state("payment", "pending"))
    assert await law_of(books, to_state("payment", "paid"), entry) == "move_is_audited"


async def test_audit_entry_of_another_transaction_does_not_stand_for_a_move(books: asyncpg.Connection) -> None:
    await beyond_the_law(books, to_state("payment", "pending"))
    await books.execute(audited("paid"))
    assert await law_of(books, to_state("payment", "paid")) == "move_is_audited"


async def test_payment_move_with_its_audit_entry_commits(books: asyncpg.Connection) -> None:
    await beyond_the_law(books, to_state("payment", "pending"))
    assert await law_of(books, to_state("payment", "paid"), audited("paid")) is None


async def test_two_moves_in_one_transaction_need_two_audit_entries(books: asyncpg.Connection) -> None:
    await beyond_the_law(books, to_state("payment", "unknown"))
    both = (to_state("payment", "pending"), to_state("payment", "paid"))
    assert await law_of(books, *both, audited("paid")) == "move_is_audited"
    assert await law_of(books, *both, audited("paid"), audited("pending")) is None


FREED = "UPDATE payment SET reserved_amount = 0"


async def test_refund_move_without_its_audit_entry_does_not_commit(books: asyncpg.Connection) -> None:
    refunded = f"{FREED}, refunded_amount = 1000"
    assert await law_of(books, to_state("refund", "succeeded"), refunded) == "move_is_audited"
    assert await law_of(books, to_state("refund", "succeeded"), refunded, audited("succeeded")) == "move_is_audited"


async def test_refund_move_with_its_audit_entry_and_sums_commits(books: asyncpg.Connection) -> None:
    refunded = f"{FREED}, refunded_amount = 1000"
    assert await law_of(books, to_state("refund", "succeeded"), refunded, audited("succeeded", REFUND)) is None
    assert await law_of(books, to_state("refund", "failed"), FREED, audited("failed", REFUND)) is None
    assert await law_of(books, to_state("refund", "unknown"), audited("unknown", REFUND)) is None


# --- refunds


@pytest.mark.parametrize(
    "statements",
    [
        (FREED,),
        ("UPDATE payment SET reserved_amount = 1001",),
        ("UPDATE payment SET refunded_amount = 1",),
        (to_state("refund", "succeeded"), audited("succeeded", REFUND)),
        (to_state("refund", "failed"), audited("failed", REFUND)),
        (to_state("refund", "unknown"), audited("unknown", REFUND), FREED),
    ],
)
async def test_sums_that_do_not_add_up_do_not_commit(books: asyncpg.Connection, statements: tuple[str, ...]) -> None:
    assert await law_of(books, *statements) == "refunds_add_up"


async def test_refund_that_is_not_reserved_does_not_commit(books: asyncpg.Connection) -> None:
    assert await law_of_row(books, "refund", NEW_REFUND) == "refunds_add_up"


@pytest.mark.parametrize("change", ["reserved_amount = 10001", "refunded_amount = 9001", "refunded_amount = 10001"])
async def test_refunds_stay_within_the_payment(books: asyncpg.Connection, change: str) -> None:
    assert await law_of(books, f"UPDATE payment SET {change}") == "payment_refunds_within_amount"


@pytest.mark.parametrize("column", ["reserved_amount", "refunded_amount"])
async def test_sums_are_never_negative(books: asyncpg.Connection, column: str) -> None:
    assert await law_of(books, f"UPDATE payment SET {column} = -1") == f"payment_{column}_check"


@pytest.mark.parametrize("state", [state for state in State if state is not State.PAID])
async def test_only_a_paid_payment_is_refunded(books: asyncpg.Connection, state: State) -> None:
    await beyond_the_law(books, to_state("payment", state))
    assert await law_of_row(books, "refund", NEW_REFUND) == "refund_of_paid_payment"


@pytest.mark.parametrize(
    ("changes", "law"),
    [
        ({"state": "succeeded"}, "refund_starts_sending"),
        ({"state": "unknown"}, "refund_starts_sending"),
        ({"amount": 0}, "refund_amount_check"),
        ({"amount": 10_000_000_000}, "refund_amount_check"),
        ({"failure": "declined"}, "refund_failure_check"),
        ({"id": REFUND}, "refund_pkey"),
    ],
)
async def test_refund_starts_only_as_the_laws_allow(
    books: asyncpg.Connection, changes: dict[str, Any], law: str
) -> None:
    assert await law_of_row(books, "refund", NEW_REFUND, **changes) == law


async def test_refund_of_no_payment_is_refused(books: asyncpg.Connection) -> None:
    law = await law_of_row(books, "refund", NEW_REFUND, payment_id=REFUND)
    assert law in {"refund_payment_id_fkey", "refund_of_paid_payment"}


@pytest.mark.parametrize(
    "change",
    [
        "id = gen_random_uuid()",
        "payment_id = gen_random_uuid()",
        "amount = amount + 1",
        "caller = 'other'",
        "created_at = now()",
    ],
)
async def test_payment_amount_and_origin_of_a_refund_are_fixed(books: asyncpg.Connection, change: str) -> None:
    assert await law_of(books, f"UPDATE refund SET {change}") == "refund_is_fixed"


@pytest.mark.parametrize("state", ["sending", "succeeded", "unknown"])
async def test_refund_that_was_settled_as_never_made_has_failed(books: asyncpg.Connection, state: str) -> None:
    with pytest.raises(asyncpg.CheckViolationError, match="refund_failure_fits_state"):
        await beyond_the_law(books, f"UPDATE refund SET state = '{state}', failure = 'settled'")


# --- payments that clients report

REPORT = f"WHERE id = '{NEW}'"
ROUTED = {"organization_bin": BIN, "route_version": 1, "device_token_id": 1}
TOLD = {"method": "phone", "amount": 10_000, **ROUTED}
"""All that a client may tell of its payment."""


async def open_report(books: asyncpg.Connection, **told: Any) -> None:
    await insert(books, "payment", NEW_REPORT, **told)


@pytest.mark.parametrize(
    ("changes", "law"),
    [
        ({}, None),
        (TOLD, None),
        ({"shop_id": 77}, None),
        ({"method": "link"}, None),
        ({"amount": 1}, None),
        ({"organization_bin": OTHER_BIN}, None),
        ({"external_id": None}, "payment_of_client_has_external_id"),
        ({"external_id": "111"}, "payment_external_id"),
        ({"state": "sending"}, "payment_starts_sending"),
        ({"state": "pending"}, "payment_starts_sending"),
        ({"state": "paid"}, "payment_starts_sending"),
        ({"state": "failed", "failure": "settled"}, "payment_starts_sending"),
        ({"refunded_amount": 1}, "payment_starts_sending"),
        ({"reserved_amount": 1}, "payment_starts_sending"),
        ({"same_as": PAYMENT}, "payment_starts_sending"),
        ({"amount": 0}, "payment_amount_check"),
        ({"amount": 10_000_000_000}, "payment_amount_check"),
        ({"organization_bin": "920317450732"}, "payment_organization_bin_check"),
        ({"organization_bin": BIN, "device_token_id": 1}, "payment_token_has_route"),
        ({"device_token_id": 1}, "payment_token_has_route"),
        ({**ROUTED, "route_version": 2}, "payment_route_is_of_history"),
        ({**ROUTED, "organization_bin": OTHER_BIN}, "payment_route_is_of_history"),
        ({**ROUTED, "organization_bin": None}, "payment_route_is_of_history"),
        ({**ROUTED, "device_token_id": 2}, "payment_route_is_of_history"),
        ({**ROUTED, "device_token_id": None}, "payment_route_is_of_history"),
        ({**ROUTED, "provider": "other"}, "payment_route_is_of_history"),
        ({**ROUTED, "shop_id": 9}, "payment_route_is_of_history"),
        ({"source": "nobody"}, "payment_route_is_current"),
    ],
    ids=str,
)
async def test_report_starts_only_as_the_laws_allow(
    books: asyncpg.Connection, changes: dict[str, Any], law: str | None
) -> None:
    assert await law_of_row(books, "payment", NEW_REPORT, **changes) == law


@pytest.mark.parametrize(
    "column", ["method", "route_version", "organization_bin", "amount", "short_code", "fingerprint"]
)
async def test_payment_of_ours_lacks_nothing(books: asyncpg.Connection, column: str) -> None:
    law = await law_of_row(books, "payment", NEW_PAYMENT, **{column: None})
    # Without its route it is on no route of its shop; without its route and its token it would have neither.
    assert law in {"payment_of_ours_is_whole", "payment_route_is_current", "payment_phone_fits_method"}
    with pytest.raises(asyncpg.CheckViolationError):
        await beyond_the_law(books, f"UPDATE payment SET {column} = NULL")


async def test_row_is_of_ours_or_of_a_client(books: asyncpg.Connection) -> None:
    with pytest.raises(asyncpg.CheckViolationError, match="payment_source_check"):
        await beyond_the_law(books, "UPDATE payment SET source = 'nobody'")


FILLED_IN = [
    ("method = 'link'", "method = 'phone'"),
    ("amount = 10000", "amount = 10001"),
    (f"organization_bin = '{BIN}'", f"organization_bin = '{OTHER_BIN}'"),
    (
        f"organization_bin = '{BIN}', route_version = 1, device_token_id = 1",
        f"organization_bin = '{OTHER_BIN}', route_version = NULL, device_token_id = NULL",
    ),
]


@pytest.mark.parametrize(("first", "second"), FILLED_IN)
async def test_what_a_client_left_out_comes_once(books: asyncpg.Connection, first: str, second: str) -> None:
    await open_report(books)
    assert await law_of(books, f"UPDATE payment SET {first} {REPORT}") is None
    twice = (f"UPDATE payment SET {first} {REPORT}", f"UPDATE payment SET {second} {REPORT}")
    assert await law_of(books, *twice) == "payment_route_is_pinned"


@pytest.mark.parametrize("column", ["method", "amount", "organization_bin", "route_version", "device_token_id"])
async def test_what_a_client_told_is_never_taken_back(books: asyncpg.Connection, column: str) -> None:
    await open_report(books, **TOLD)
    assert await law_of(books, f"UPDATE payment SET {column} = NULL {REPORT}") == "payment_route_is_pinned"


async def test_account_that_was_told_without_a_route_never_gets_one(books: asyncpg.Connection) -> None:
    await open_report(books, organization_bin=BIN)
    law = await law_of(books, f"UPDATE payment SET route_version = 1, device_token_id = 1 {REPORT}")
    assert law == "payment_route_is_pinned"


async def test_report_is_filled_in_only_with_a_route_of_its_shop(books: asyncpg.Connection) -> None:
    await open_report(books)
    change = f"organization_bin = '{OTHER_BIN}', route_version = 1, device_token_id = 1"
    assert await law_of(books, f"UPDATE payment SET {change} {REPORT}") == "payment_route_is_of_history"


@pytest.mark.parametrize(
    "change",
    [
        "source = 'service'",
        "shop_id = 9",
        "caller = 'other'",
        "short_code = 'ABCDEF'",
        "fingerprint = 'f'",
        "order_id = 'o'",
        "phone_last4 = '4545'",
        "message = 'm'",
        "created_at = 'epoch'",
    ],
)
async def test_origin_of_a_report_is_fixed(books: asyncpg.Connection, change: str) -> None:
    await open_report(books)
    assert await law_of(books, f"UPDATE payment SET {change} {REPORT}") == "payment_route_is_pinned"


async def test_payment_of_ours_never_becomes_a_clients(books: asyncpg.Connection) -> None:
    assert await law_of(books, "UPDATE payment SET source = 'client'") == "payment_route_is_pinned"


MERGE = f"UPDATE payment SET same_as = '{PAYMENT}' {REPORT}"


async def test_report_is_merged_into_a_payment(books: asyncpg.Connection) -> None:
    await open_report(books)
    assert await law_of(books, MERGE) is None


@pytest.mark.parametrize(
    ("statement", "law"),
    [
        (f"UPDATE payment SET same_as = id WHERE id = '{PAYMENT}'", "payment_only_reports_are_merged"),
        (
            f"UPDATE payment SET same_as = '{PAYMENT}', next_check_at = now() {REPORT}",
            "payment_only_reports_are_merged",
        ),
        (f"UPDATE payment SET same_as = gen_random_uuid() {REPORT}", "payment_same_as_fkey"),
    ],
)
async def test_merging_keeps_its_laws(books: asyncpg.Connection, statement: str, law: str) -> None:
    await open_report(books)
    assert await law_of(books, statement) == law


@pytest.mark.parametrize("column", ["refunded_amount", "reserved_amount"])
async def test_report_with_refunds_is_never_merged(books: asyncpg.Connection, column: str) -> None:
    await open_report(books, **TOLD)
    with pytest.raises(asyncpg.CheckViolationError, match="payment_only_reports_are_merged"):
        await beyond_the_law(books, f"UPDATE payment SET {column} = 1, same_as = '{PAYMENT}' {REPORT}")


@pytest.mark.parametrize(
    "change", ["same_as = NULL", f"same_as = '{NEW}'", "state = 'paid'", "state = 'failed', failure = 'settled'"]
)
async def test_merged_report_stays_as_it_is(books: asyncpg.Connection, change: str) -> None:
    await open_report(books)
    await books.execute(MERGE)
    assert await law_of(books, f"UPDATE payment SET {change} {REPORT}") == "payment_merged_is_fixed"


async def test_merged_report_is_never_asked_about(books: asyncpg.Connection) -> None:
    await open_report(books)
    await books.execute(MERGE)
    law = await law_of(books, f"UPDATE payment SET next_check_at = now() {REPORT}")
    assert law == "payment_only_reports_are_merged"


async def test_merged_report_gives_its_external_id_away(books: asyncpg.Connection) -> None:
    other = REFUND  # any other id
    await open_report(books)
    await insert(books, "payment", NEW_PAYMENT, id=other)
    take = f"UPDATE payment SET external_id = '222' WHERE id = '{other}'"
    assert await law_of(books, take) == "payment_external_id"
    assert await law_of(books, MERGE.replace(str(PAYMENT), str(other)), take) is None


async def test_of_reports_with_one_external_id_one_is_not_merged(books: asyncpg.Connection) -> None:
    await open_report(books)
    assert await law_of_row(books, "payment", NEW_REPORT, id=REFUND) == "payment_external_id"
    await books.execute(MERGE)
    assert await law_of_row(books, "payment", NEW_REPORT, id=REFUND) is None


@pytest.mark.parametrize("column", ["refunded_amount", "reserved_amount"])
async def test_payment_without_an_amount_is_not_refunded(books: asyncpg.Connection, column: str) -> None:
    await open_report(books)
    with pytest.raises(asyncpg.CheckViolationError, match="payment_refunds_within_amount"):
        await beyond_the_law(books, f"UPDATE payment SET {column} = 1 {REPORT}")


async def test_readings_that_told_nothing_are_counted_from_zero(books: asyncpg.Connection) -> None:
    assert await law_of(books, "UPDATE payment SET unread = -1") == "payment_unread_check"


# --- when something moved


@pytest.mark.parametrize(("table", "before", "after"), [("payment", "failed", "paid"), ("refund", "unknown", "failed")])
async def test_move_is_stamped_and_nothing_else_is(
    books: asyncpg.Connection, table: str, before: str, after: str
) -> None:
    await beyond_the_law(books, to_state(table, before), f"UPDATE {table} SET moved_at = 'epoch'")
    moved = f"SELECT moved_at = now() FROM {table}"
    await books.execute(f"UPDATE {table} SET error_message = 'other'")
    assert await books.fetchval(f"SELECT moved_at = 'epoch' FROM {table}")
    transaction = books.transaction()
    await transaction.start()
    await books.execute(to_state(table, after))
    assert await books.fetchval(moved)
    await transaction.rollback()


# --- keys and the record


@pytest.mark.parametrize(
    ("changes", "law"),
    [
        ({"state": "paid"}, "payment_log_settling_has_reason"),
        ({"state": "failed", "reason": ""}, "payment_log_settling_has_reason"),
        ({"state": "succeeded"}, "payment_log_settling_has_reason"),
        ({"state": None}, "payment_log_settling_has_reason"),
        ({"state": "paid", "reason": "  "}, "payment_log_settling_has_reason"),
        ({"source": "client"}, None),
        ({"state": "paid", "reason": "seen by Aigul"}, None),
        ({"state": "unknown"}, None),
    ],
)
async def test_settling_by_hand_has_its_reason(
    sql: asyncpg.Connection, changes: dict[str, Any], law: str | None
) -> None:
    assert await law_of_row(sql, "payment_log", {**LINE, "operation_type": "settle"}, **changes) == law


@pytest.mark.parametrize(
    ("changes", "law"),
    [
        ({"amount": -1}, "payment_log_amount_check"),
        ({"report_id": ""}, "payment_log_report_id_check"),
        ({"operation_type": "settle-undo", "reason": " "}, "payment_log_undoing_has_reason"),
        ({"operation_type": "settle-undo", "reason": "seen by Dana"}, None),
        ({"operation_type": "settle-undo", "source": "client"}, None),
        ({"subject": "api_key:1"}, "payment_log_subject_has_content"),
        ({"content": "{}"}, "payment_log_subject_has_content"),
        ({"subject": "api_key:1", "content": "{}", "source": "client"}, "payment_log_subject_has_content"),
        ({"subject": "api_key:1", "content": "{}"}, None),
        ({"source": "nobody"}, "payment_log_source_check"),
        ({"actor": None}, "actor"),
        ({"operation_type": None}, "operation_type"),
        ({"amount": 0}, None),
        ({"source": "client"}, None),
    ],
)
async def test_line_of_the_record_keeps_its_laws(
    sql: asyncpg.Connection, changes: dict[str, Any], law: str | None
) -> None:
    assert await law_of_row(sql, "payment_log", LINE, **changes) == law


EVENT = {
    "id": NEW,
    "type": "payment.paid",
    "subject": "payment",
    "subject_id": str(PAYMENT),
    "version": 1,
    "data": "{}",
}


@pytest.mark.parametrize(
    ("changes", "law"),
    [
        ({"type": "payment.lost"}, "event_type_check"),
        ({"subject": "person"}, "event_subject_check"),
        ({"version": 0}, "event_version_check"),
        ({"data": "[]"}, "event_data_check"),
        ({}, None),
    ],
)
async def test_event_keeps_its_laws(sql: asyncpg.Connection, changes: dict[str, Any], law: str | None) -> None:
    assert await law_of_row(sql, "event", EVENT, **changes) == law


async def test_key_stands_for_one_claim_of_one_caller(sql: asyncpg.Connection) -> None:
    claim = {"caller": "a", "idempotency_key": "key", "fingerprint": "f"}
    await insert(sql, "idempotency_claim", claim)
    assert await law_of_row(sql, "idempotency_claim", claim) == "idempotency_claim_pkey"
    assert await law_of_row(sql, "idempotency_claim", claim, caller="b") is None


@pytest.mark.parametrize(
    ("changes", "law"),
    [
        ({"name": ""}, "api_key_name_check"),
        ({"scopes": []}, "api_key_scopes_check"),
        ({"digest": "d"}, "api_key_digest_key"),
        ({}, None),
    ],
)
async def test_api_key_keeps_its_laws(sql: asyncpg.Connection, changes: dict[str, Any], law: str | None) -> None:
    key = {"name": "n", "prefix": "ps_", "digest": "e", "scopes": ["admin"]}
    async with sql.transaction():
        await insert(sql, "api_key", key, id=1, digest="d")
        await write_down(sql, "api_key:1")
    law_now = law_of_row(sql, "api_key", key, id=2, **changes)
    assert await law_now == (law or "change_is_audited")


# --- what operators see


async def test_view_of_routing_shows_tokens_masked(books: asyncpg.Connection) -> None:
    rows = await books.fetch("SELECT shop_id, organization_bin, device_token FROM paymentconfig ORDER BY shop_id")
    assert [tuple(row) for row in rows] == [(8, BIN, "11111111…"), (9, OTHER_BIN, None)]


async def test_view_of_the_log_shows_its_lines(sql: asyncpg.Connection) -> None:
    await insert(sql, "payment_log", LINE, shop_id=8, amount=10_000, external_id="111")
    row = await sql.fetchrow("SELECT shop_id, amount, external_id, operation_type, provider FROM paymentlog")
    assert row is not None
    assert tuple(row) == (8, 10_000, "111", "create", "kaspi")


@pytest.mark.parametrize(
    ("statements", "heard"),
    [(new_version("is_active = false"), ["8"]), (("SELECT 1",), []), (("UPDATE payment SET checks = 1",), [])],
)
async def test_every_process_hears_the_shop_whose_routing_changed(
    books: asyncpg.Connection, database_url: str, statements: tuple[str, ...], heard: list[str]
) -> None:
    payloads: list[str] = []
    listener = await asyncpg.connect(database_url)
    try:
        await listener.add_listener("routing_changed", lambda *said: payloads.append(said[3]))
        async with books.transaction():
            for statement in statements:
                await books.execute(statement)
        await listener.execute("SELECT 1")  # what was told before this answer has been heard with it
    finally:
        await listener.close()
    assert payloads == heard


@pytest.mark.parametrize("level", ["repeatable_read", "serializable"])
async def test_nobody_looks_for_what_is_in_the_way_with_a_snapshot_from_before_the_lock(
    sql: asyncpg.Connection, level: Any
) -> None:
    async with sql.transaction():
        await sql.execute("SELECT one_at_a_time('an order')")
    with pytest.raises(asyncpg.CheckViolationError) as refused:
        async with sql.transaction(isolation=level):
            await sql.execute("SELECT one_at_a_time('an order')")
    assert refused.value.constraint_name == "looks_after_the_lock"


async def test_no_law_compares_letters_as_the_locale_of_the_database_has_them(sql: asyncpg.Connection) -> None:
    """In Turkish the small letter of KASPI is no i, and what others paid back there would be paid back again."""
    rows = await sql.fetch(
        "SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND proname <> 'fn_pgqueuer_changed'"
        " AND prosrc ~* '\\m(lower|upper|initcap)\\((?![^()]*COLLATE \"C\")'"
    )
    assert [row["proname"] for row in rows] == []


@pytest.mark.parametrize("level", ["repeatable_read", "serializable"])
@pytest.mark.parametrize(
    ("table", "row"), [("payment", NEW_PAYMENT), ("refund", NEW_REFUND)], ids=["payment", "refund"]
)
async def test_intent_is_written_only_where_it_sees_what_was_committed(
    books: asyncpg.Connection, table: str, row: dict[str, Any], level: Any
) -> None:
    with pytest.raises(asyncpg.CheckViolationError) as refused:
        async with books.transaction(isolation=level):
            await insert(books, table, row)
    assert refused.value.constraint_name == "sees_what_was_committed"


@pytest.mark.parametrize(
    ("asked", "set_to"), [("off", "on"), ("local", "on"), ("remote_write", "on"), ("remote_apply", "remote_apply")]
)
@pytest.mark.parametrize(("table", "row"), [("payment", NEW_PAYMENT), ("payment_log", LINE)], ids=str)
async def test_what_is_written_is_on_the_disk_whatever_the_session_asks_for(
    books: asyncpg.Connection, table: str, row: dict[str, Any], asked: str, set_to: str
) -> None:
    await books.execute(f"SET synchronous_commit = {asked}")
    async with books.transaction():
        await insert(books, table, row)
        assert await books.fetchval("SHOW synchronous_commit") == set_to
    await books.execute("RESET synchronous_commit")
