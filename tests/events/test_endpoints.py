"""Endpoints and what the database holds of them: secrets kept, nothing deleted, nothing that ended changed; replays."""

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg
import pytest

from payment_service.access.quota import MAX_OF_SOME_SHOPS
from payment_service.access.service import FULL_ACCESS, Caller
from payment_service.errors import DeliveryNotFound, InvalidInput, WebhookNotFound, WebhookOff
from payment_service.events.outbox import EventType
from payment_service.identifiers import MASK
from payment_service.outbound.client import Posted
from payment_service.postgres.vault import Vault, VaultError, new_key
from payment_service.services import Services
from payment_service.settings import Settings
from tests.events.webhooks import SHOP, URL, World, world_of
from tests.support.database import without_laws
from tests.support.shops import SHOPS

OTHER_SHOP = 576631
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
OF_SHOP = Caller("shop", FULL_ACCESS.scopes, frozenset({SHOP}))


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"webhooks_stay_here": True})


@pytest.fixture
def world(services: Services, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch) -> World:
    return world_of(services, sql, monkeypatch, delays_s=(5,))


# --- secrets and headers


async def test_database_holds_no_secret_in_the_clear(world: World) -> None:
    made = await world.services.endpoints.add(
        FULL_ACCESS, {"url": URL, "headers": {"Authorization": "Bearer of-the-site"}}
    )
    held = str(tuple(await world.row(made.endpoint.id)))
    assert made.secret.startswith("whsec_")
    assert made.secret not in held
    assert "of-the-site" not in held


async def test_receiver_that_tells_what_it_got_shows_no_header_and_nothing_of_its_address(world: World) -> None:
    url = f"{URL}/of-the-path?token=of-the%2Bquery&n=7"
    await world.endpoint(url=url, headers={"Authorization": "Bearer of-the-site", "X-Site": "7"})
    got = {"path": "/webhook/of-the-path", "token": "of-the+query", "as_sent": url, "n": 7}
    world.receiver.answer = lambda call: Posted(200, json.dumps(dict(call.headers) | got).encode())
    await world.happens()
    await world.work()
    answer = await world.sql.fetchval("SELECT answer FROM delivery_try")
    assert "of-the" not in answer
    assert (f'"Authorization": "Bearer {MASK}"' in answer, f'"/webhook/{MASK}"' in answer) == (True, True)


async def test_caller_of_some_shops_has_so_many_endpoints_that_are_on(world: World) -> None:
    endpoints, theirs = world.services.endpoints, OF_SHOP
    await endpoints.add(FULL_ACCESS, {"url": URL})  # of all shops: not theirs
    made = [(await endpoints.add(theirs, {"url": URL})).endpoint.id for _ in range(MAX_OF_SOME_SHOPS)]
    await endpoints.change(theirs, made[0], {"is_active": False})
    ends = await asyncio.gather(*(endpoints.add(theirs, {"url": URL}) for _ in range(3)), return_exceptions=True)
    assert sorted(type(end).__name__ for end in ends) == ["InvalidInput", "InvalidInput", "NewSecret"]
    with pytest.raises(InvalidInput, match="20 endpoints"):
        await endpoints.change(theirs, made[0], {"is_active": True})
    assert len(await endpoints.all(theirs)) == MAX_OF_SOME_SHOPS + 1
    await endpoints.change(FULL_ACCESS, made[0], {"is_active": True})


async def test_rotation_of_the_encryption_key_takes_secrets_and_headers_along(world: World) -> None:
    endpoints = world.services.endpoints
    made = await endpoints.add(FULL_ACCESS, {"url": URL, "headers": {"X-Site": "flowers"}})
    await endpoints.rotate_secret(FULL_ACCESS, made.endpoint.id, keep_old_s=3600)
    purposes = ("secret", "previous_secret", "headers")
    before = await world.row(made.endpoint.id)
    await world.services.rotate_keys()
    after = await world.row(made.endpoint.id)
    for purpose in purposes:
        place, column = f"webhook_endpoint/{made.endpoint.id}/{purpose}", f"{purpose}_ciphertext"
        assert before[column] != after[column]
        assert endpoints.vault.decrypt(before[column], place) == endpoints.vault.decrypt(after[column], place)
    assert after["version"] == before["version"]


async def test_new_encryption_key_opens_what_was_rotated(world: World, settings: Settings) -> None:
    [old], new = [key.get_secret_value() for key in settings.encryption_keys], new_key()
    made = await world.services.endpoints.add(FULL_ACCESS, {"url": URL})
    world.services.vault._fernet = Vault([new, old])._fernet
    await world.services.rotate_keys()
    ciphertext = (await world.row(made.endpoint.id))["secret_ciphertext"]
    assert Vault([new]).decrypt(ciphertext, f"webhook_endpoint/{made.endpoint.id}/secret") == made.secret


async def test_values_of_headers_are_never_shown_and_the_mask_leaves_them(world: World) -> None:
    endpoints = world.services.endpoints
    endpoint_id = await world.endpoint(headers={"X-Site": "flowers", "X-Old": "1"})
    changed = await endpoints.change(FULL_ACCESS, endpoint_id, {"headers": {"x-site": MASK, "X-New": "2"}})
    assert endpoints.shown(changed)["headers"] == {"x-site": MASK, "X-New": MASK}
    assert endpoints.headers_of(changed) == {"x-site": "flowers", "X-New": "2"}


async def test_endpoint_of_a_lost_key_is_shown_beside_the_others_and_mended(world: World) -> None:
    endpoints = world.services.endpoints
    lost, fine = await world.endpoint(headers={"X-Site": "7"}), await world.endpoint(headers={"X-Site": "8"})
    other = Vault([new_key()])
    secret, headers = (other.encrypt("x", f"webhook_endpoint/{lost}/{name}") for name in ("secret", "headers"))
    async with without_laws(world.sql):
        await world.sql.execute(
            "UPDATE webhook_endpoint SET secret_ciphertext = $2, headers_ciphertext = $3 WHERE id = $1",
            lost,
            secret,
            headers,
        )
    shown = {one["id"]: one for one in map(endpoints.shown, await endpoints.all(FULL_ACCESS))}
    assert {id_: (one["unreadable"], one["headers"]) for id_, one in shown.items()} == {
        lost: (["secret", "headers"], {}),
        fine: ([], {"X-Site": MASK}),
    }
    with pytest.raises(VaultError, match=f"opens webhook_endpoint/{lost}/secret"):
        await world.services.rotate_keys()
    with pytest.raises(InvalidInput, match="give the value of each"):
        await endpoints.change(FULL_ACCESS, lost, {"headers": {"X-Site": MASK}})
    with pytest.raises(InvalidInput, match="must be 0"):
        await endpoints.rotate_secret(FULL_ACCESS, lost, keep_old_s=60)
    await endpoints.change(FULL_ACCESS, lost, {"headers": {"X-Site": "9"}})
    made = await endpoints.rotate_secret(FULL_ACCESS, lost, keep_old_s=0)
    assert endpoints.shown(made.endpoint)["unreadable"] == []
    await world.services.rotate_keys()


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"url": "ftp://127.0.0.1/x"}, "https://"),
        ({"url": "http://10.0.0.1:8080/x"}, "not on the public Internet"),
        ({"events": []}, "one or more of"),
        ({"events": ["test"]}, "one or more of"),
        ({"events": ["payment.stolen"]}, "one or more of"),
        ({"shops": []}, "one or more"),
        ({"headers": {"Host": "elsewhere"}}, "cannot be set"),
        ({"headers": {"webhook-signature": "v1,x"}}, "which this service sets"),
        ({"headers": {"Content-Type": "text/plain"}}, "which this service sets"),
        ({"headers": {"X-A": "two\nlines"}}, "visible ASCII"),
        ({"headers": {"X-A": MASK}}, "visible ASCII"),
        ({"headers": {"X-A": "1", "x-a": "2"}}, "each name once"),
        ({"headers": {f"X-{number}": "1" for number in range(11)}}, "at most 10"),
    ],
    ids=str,
)
async def test_what_an_endpoint_cannot_be_is_told_in_a_sentence(
    world: World, fields: dict[str, object], why: str
) -> None:
    with pytest.raises(InvalidInput, match=why):
        await world.services.endpoints.add(FULL_ACCESS, {"url": URL, **fields})
    endpoint_id = await world.endpoint()
    with pytest.raises(InvalidInput, match=why):
        await world.services.endpoints.change(FULL_ACCESS, endpoint_id, fields)


async def test_production_calls_nobody_on_this_machine(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    from payment_service.services import build  # noqa: PLC0415 - a services of its own

    ordinary = build(services.settings.model_copy(update={"webhooks_stay_here": False}))
    try:
        with pytest.raises(InvalidInput, match="https://"):
            await ordinary.endpoints.add(FULL_ACCESS, {"url": URL})
    finally:
        await ordinary.close()


async def test_version_counts_what_people_decide(world: World) -> None:
    endpoint_id = await world.endpoint()
    changes = ({"description": "new"}, {"description": "new"}, {"is_active": False}, {"headers": {"X-A": "1"}})
    versions = [
        (await world.services.endpoints.change(FULL_ACCESS, endpoint_id, dict(change))).version for change in changes
    ]
    assert versions == [2, 2, 3, 3]


async def test_endpoint_of_foreign_shops_looks_like_a_missing_one(world: World) -> None:
    endpoints = world.services.endpoints
    own = await world.endpoint(shops=[SHOP])
    both, everything = await world.endpoint(shops=[SHOP, OTHER_SHOP]), await world.endpoint()
    assert [endpoint.id for endpoint in await endpoints.all(OF_SHOP)] == [own]
    for foreign in (both, everything, UUID(int=0)):
        with pytest.raises(WebhookNotFound):
            await endpoints.get(OF_SHOP, foreign)
        with pytest.raises(WebhookNotFound):
            await endpoints.change(OF_SHOP, foreign, {"description": "mine"})
        with pytest.raises(WebhookNotFound):
            await endpoints.rotate_secret(OF_SHOP, foreign, keep_old_s=0)
        with pytest.raises(WebhookNotFound):
            await world.services.deliveries.test(OF_SHOP, foreign)


async def test_caller_of_some_shops_cannot_ask_for_all(world: World) -> None:
    made = await world.services.endpoints.add(OF_SHOP, {"url": URL})
    assert made.endpoint.shops == [SHOP]
    with pytest.raises(InvalidInput, match="name them"):
        await world.services.endpoints.change(OF_SHOP, made.endpoint.id, {"shops": None})


# --- replays


async def dead_letters(world: World, count: int = 1) -> UUID:
    """An endpoint with so many dead letters; returns its id."""
    endpoint_id = await world.endpoint()
    for _ in range(count):
        await world.happens()
    world.receiver.answers(500)
    await world.work()
    await world.goes_on_for(hours=1)
    assert await world.states() == ["dead"] * count
    world.receiver.calls.clear()
    world.receiver.answers(200)
    return endpoint_id


async def test_replay_is_a_new_delivery_of_the_same_event(world: World) -> None:
    await dead_letters(world)
    [dead] = await world.sql.fetch("SELECT * FROM event_delivery")
    again = await world.services.delivery_record.replay(FULL_ACCESS, dead["id"])
    assert (again.replay_of, again.event_id, again.tries) == (dead["id"], dead["event_id"], 0)
    await world.work()
    assert [call.headers["webhook-id"] for call in world.receiver.calls] == [str(dead["event_id"])]
    assert await world.states() == ["dead", "delivered"]
    assert await world.sql.fetchrow("SELECT * FROM event_delivery WHERE id = $1", dead["id"]) == dead


async def test_replay_of_what_was_replayed_continues_its_chain(world: World) -> None:
    await dead_letters(world)
    first = await world.sql.fetchval("SELECT id FROM event_delivery")
    second = await world.services.delivery_record.replay(FULL_ACCESS, first)
    assert (await world.services.delivery_record.replay(FULL_ACCESS, first)).id == second.id  # it waits already
    await world.work()
    third = await world.services.delivery_record.replay(FULL_ACCESS, first)
    assert third.replay_of == second.id


async def test_all_that_failed_since_a_time_is_replayed(world: World) -> None:
    endpoint_id = await dead_letters(world, 3)
    await world.happens()
    world.receiver.answers(500, 200)
    await world.work()
    record = world.services.delivery_record
    assert await record.replay_failed(FULL_ACCESS, endpoint_id, datetime.now(UTC) + timedelta(days=1)) == 0
    assert await record.replay_failed(FULL_ACCESS, endpoint_id, LONG_AGO) == 4
    world.receiver.calls.clear()
    await world.work()
    assert len(world.receiver.calls) == 4
    assert await world.states() == ["dead"] * 3 + ["delivered"] * 4
    assert await record.replay_failed(FULL_ACCESS, endpoint_id, LONG_AGO) == 0


async def test_period_is_replayed_with_what_was_never_sent(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("payment_service.webhooks.record.BATCH", 2)
    before = await world.happens()
    await world.pass_on()
    endpoint_id = await world.endpoint(events=["payment.paid"])
    sent = await world.happens()
    await world.happens(EventType.PAYMENT_FAILED)
    await world.work()
    now = datetime.now(UTC) + timedelta(seconds=1)
    assert await world.services.delivery_record.replay_period(FULL_ACCESS, endpoint_id, LONG_AGO, now) == 2
    world.receiver.calls.clear()
    await world.work()
    assert {call.headers["webhook-id"] for call in world.receiver.calls} == {str(before), str(sent)}


async def test_nothing_is_replayed_to_an_endpoint_that_is_off(world: World) -> None:
    endpoint_id = await dead_letters(world)
    [delivery_id] = [row["id"] for row in await world.sql.fetch("SELECT id FROM event_delivery")]
    await world.services.endpoints.change(FULL_ACCESS, endpoint_id, {"is_active": False})
    with pytest.raises(WebhookOff):
        await world.services.delivery_record.replay(FULL_ACCESS, delivery_id)
    with pytest.raises(WebhookOff):
        await world.services.delivery_record.replay_failed(FULL_ACCESS, endpoint_id, LONG_AGO)


async def test_delivery_to_a_foreign_endpoint_looks_like_a_missing_one(world: World) -> None:
    await dead_letters(world)
    delivery_id = await world.sql.fetchval("SELECT id FROM event_delivery")
    for foreign in (delivery_id, UUID(int=0)):
        with pytest.raises(DeliveryNotFound):
            await world.services.delivery_record.get(OF_SHOP, foreign)
        with pytest.raises(DeliveryNotFound):
            await world.services.delivery_record.replay(OF_SHOP, foreign)


async def test_who_sees_some_endpoints_counts_and_sends_again_for_those_alone(world: World) -> None:
    own, of_all = await world.endpoint(shops=[SHOP]), await world.endpoint(url=f"{URL}-of-all")
    event_id = await world.happens()
    await world.work()
    subjects = [await world.sql.fetchval("SELECT subject_id FROM event WHERE id = $1", event_id)]
    record, period = world.services.delivery_record, (LONG_AGO, datetime.now(UTC) + timedelta(hours=1))
    for refused in (
        record.replay_failed(OF_SHOP, of_all, LONG_AGO),
        record.replay_period(OF_SHOP, of_all, *period),
        record.count_failed(OF_SHOP, of_all, LONG_AGO, at_most=9),
        record.count_period(OF_SHOP, of_all, *period, at_most=9),
    ):
        with pytest.raises(WebhookNotFound):
            await refused
    assert [one.endpoint.id for one in await record.of_subjects(OF_SHOP, subjects)] == [own]
    assert [one.endpoint.id for one in await record.endpoint_health(OF_SHOP)] == [own]
    world.receiver.calls.clear()
    assert await record.replay_subjects(OF_SHOP, subjects) == 1
    await world.work()
    assert [call.url for call in world.receiver.calls] == [URL]


async def test_endpoint_is_told_nothing_of_shops_that_were_taken_from_it(world: World) -> None:
    """It may be another seller's by now: what waits or is replayed tells of orders that are not theirs."""
    endpoint_id = await world.endpoint(shops=[SHOP, OTHER_SHOP])
    await world.happens()
    own = await world.happens(shop_id=OTHER_SHOP)
    world.receiver.answers(500)
    await world.work()
    await world.services.endpoints.change(FULL_ACCESS, endpoint_id, {"shops": [OTHER_SHOP]})
    world.receiver.calls.clear()
    world.receiver.answers(200)
    await world.passes(hours=1)
    await world.deliver()
    assert await world.services.delivery_record.replay_failed(FULL_ACCESS, endpoint_id, LONG_AGO) == 1
    await world.deliver()
    assert [call.headers["webhook-id"] for call in world.receiver.calls] == [str(own)]
    assert sorted(await world.states()) == ["dead", "dead", "delivered"]
    errors = await world.sql.fetch("SELECT error FROM delivery_try WHERE error IS NOT NULL")
    assert {row["error"] for row in errors} == {"The endpoint is not told of this shop any more."}
    assert (await world.row(endpoint_id))["failing_since"] is None  # it did not fail


async def test_endpoint_of_a_shop_is_told_nothing_of_its_earlier_owner(world: World) -> None:
    """What waits when the shop gets another BIN, and what becomes of the earlier owner's payments after it.

    The earlier owner, who has another shop, keeps the BIN.
    """
    routing, of_earlier = world.services.routing, {"organization_bin": SHOPS[SHOP]}
    for shop_id in (SHOP, 71691):
        await routing.create(FULL_ACCESS, shop_id, of_earlier)
    endpoint_id = await world.endpoint(shops=[SHOP])
    await world.endpoint(url=f"{URL}-of-all")
    waited = await world.happens(data=of_earlier)
    waited_too = await world.happens(EventType.REFUND_SUCCEEDED, data={"payment": of_earlier})
    await world.pass_on()
    await routing.update(FULL_ACCESS, SHOP, {"organization_bin": SHOPS[OTHER_SHOP]})
    late = await world.happens(EventType.REFUND_SUCCEEDED, data={"payment": of_earlier})
    own = await world.happens(data={"organization_bin": SHOPS[OTHER_SHOP]})
    await world.work()
    told = {(call.url, UUID(call.headers["webhook-id"])) for call in world.receiver.calls if call.is_of_money}
    assert told == {(URL, own)} | {(f"{URL}-of-all", event_id) for event_id in (waited, waited_too, late, own)}

    # Nor by sending it again, and they see no delivery of it.
    world.receiver.calls.clear()
    record = world.services.delivery_record
    period = LONG_AGO, datetime.now(UTC) + timedelta(hours=1)
    counted = await record.count_period(FULL_ACCESS, endpoint_id, *period, at_most=100)
    assert counted == await record.replay_period(OF_SHOP, endpoint_id, *period)
    await record.replay_failed(OF_SHOP, endpoint_id, LONG_AGO)
    await world.deliver()
    assert {UUID(call.headers["webhook-id"]) for call in world.receiver.calls if call.is_of_money} == {own}
    assert waited not in {delivery.event_id for delivery in (await record.search(OF_SHOP, limit=100)).rows}
    delivery_id = await world.sql.fetchval(
        "SELECT id FROM event_delivery WHERE (event_id, endpoint_id) = ($1, $2) LIMIT 1", waited, endpoint_id
    )
    with pytest.raises(DeliveryNotFound):
        await record.get(OF_SHOP, delivery_id)


async def test_who_sees_an_endpoint_sees_of_its_deliveries_those_of_their_shops(world: World) -> None:
    endpoint_id = await world.endpoint()
    own, foreign = await world.happens(), await world.happens(shop_id=OTHER_SHOP)
    await world.work()
    await world.services.endpoints.change(FULL_ACCESS, endpoint_id, {"shops": [SHOP]})
    record = world.services.delivery_record
    test = await world.services.deliveries.test(OF_SHOP, endpoint_id)
    page = await record.search(OF_SHOP, limit=10)
    assert {delivery.event_id for delivery in page.rows} == {own, test.event_id}
    [health] = await record.endpoint_health(OF_SHOP)
    assert (health.delivered, health.waiting) == (1, 1)  # the test waits
    delivery_id = await world.sql.fetchval("SELECT id FROM event_delivery WHERE event_id = $1", foreign)
    with pytest.raises(DeliveryNotFound):
        await record.get(OF_SHOP, delivery_id)


# --- laws


COLUMNS = "id, event_id, endpoint_id, next_try_at, type, subject_id, version, shop_id, state, tries, replay_of"
COPY = f"INSERT INTO event_delivery ({COLUMNS}) SELECT"
SAME = "gen_random_uuid(), event_id, endpoint_id, now()"
TRY = "delivery_id, number, succeeded, duration_ms, status"
BROKEN = [
    ("DELETE FROM webhook_endpoint", "webhook_endpoint_kept"),
    ("UPDATE webhook_endpoint SET id = gen_random_uuid()", "webhook_endpoint_kept"),
    ("UPDATE webhook_endpoint SET is_active = false", "webhook_endpoint_off_has_its_reason"),
    ("UPDATE webhook_endpoint SET previous_secret_until = now()", "webhook_endpoint_previous_secret_ends"),
    ("UPDATE webhook_endpoint SET url = 'file:///etc/passwd'", "webhook_endpoint_url_check"),
    ("UPDATE webhook_endpoint SET shops = '{}'", "webhook_endpoint_shops_check"),
    ("DELETE FROM event_delivery", "event_delivery_kept"),
    ("UPDATE event_delivery SET tries = 9 WHERE state = 'dead'", "event_delivery_ended"),
    ("UPDATE event_delivery SET state = 'waiting' WHERE state = 'dead'", "event_delivery_ended"),
    ("UPDATE event_delivery SET version = 9 WHERE state = 'waiting'", "event_delivery_fixed"),
    ("UPDATE event_delivery SET tries = 9 WHERE state = 'waiting'", "event_delivery_counts_tries"),
    ("UPDATE event_delivery SET tries = 1 WHERE state = 'waiting'", "event_delivery_ends_by_a_try"),
    (
        "UPDATE event_delivery SET state = 'delivered', next_try_at = NULL, ended_at = now() WHERE state = 'waiting'",
        "event_delivery_ends_by_a_try",
    ),
    ("UPDATE event_delivery SET next_try_at = NULL WHERE state = 'waiting'", "event_delivery_waits_or_has_ended"),
    ("DELETE FROM delivery_try", "delivery_try_insert_only"),
    ("UPDATE delivery_try SET succeeded = true", "delivery_try_insert_only"),
    (
        f"INSERT INTO delivery_try ({TRY}) SELECT id, 9, true, 1, 500 FROM event_delivery LIMIT 1",
        "delivery_try_succeeds_by_2xx",
    ),
    (
        f"INSERT INTO delivery_try ({TRY}) SELECT id, 9, false, 1, NULL FROM event_delivery LIMIT 1",
        "delivery_try_tells_what_came",
    ),
    *(
        (
            f"{COPY} {what}, {again} FROM event_delivery WHERE state = '{state}'",
            law,
        )
        for what, again, state, law in (
            (
                f"{SAME}, type, subject_id, version, shop_id, 'waiting', 1",
                "id",
                "dead",
                "event_delivery_starts_waiting",
            ),
            (
                f"{SAME}, 'test', subject_id, version, shop_id, 'waiting', 0",
                "id",
                "dead",
                "event_delivery_of_its_event",
            ),
            (f"{SAME}, type, subject_id, version, NULL, 'waiting', 0", "id", "dead", "event_delivery_of_its_event"),
            (f"{SAME}, type, subject_id, version, shop_id, 'waiting', 0", "NULL", "dead", "event_delivery_once"),
            (
                f"{SAME}, type, subject_id, version, shop_id, 'waiting', 0",
                "id",
                "waiting",
                "event_delivery_one_waiting",
            ),
        )
    ),
    ("TRUNCATE delivery_try", "delivery_try_insert_only"),
    ("TRUNCATE event_delivery CASCADE", "insert_only"),
    ("TRUNCATE webhook_endpoint CASCADE", "insert_only"),
]


@pytest.mark.parametrize(("statement", "law"), BROKEN, ids=[f"{law}: {sql}"[:70] for sql, law in BROKEN])
async def test_database_forbids(world: World, statement: str, law: str) -> None:
    world.deliveries = replace(world.deliveries, plan=replace(world.deliveries.plan, delays_s=()))
    await dead_letters(world)
    await world.happens()
    await world.pass_on()
    with pytest.raises(asyncpg.IntegrityConstraintViolationError) as caught:
        await world.sql.execute(statement)
    assert law in str(caught.value.constraint_name).replace("_first", "")
