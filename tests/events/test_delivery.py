"""Delivering events: signed, to whoever wants them, again and again by a plan, in order; given up, never in silence."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, timedelta
from itertools import pairwise
from typing import Any

import asyncpg
import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from payment_service.access.service import FULL_ACCESS
from payment_service.events import relay
from payment_service.events.models import Event
from payment_service.events.outbox import EventType
from payment_service.events.relay import Relay
from payment_service.identifiers import new_id
from payment_service.outbound.client import Posted
from payment_service.services import Services
from payment_service.settings import Settings
from payment_service.webhooks.delivery import LEASE_S, body_of
from tests.events.webhooks import DUE_IN_S, OK, REFUSED, SHOP, URL, Call, World, world_of
from tests.support.alarms import alarms
from tests.support.database import without_laws
from tests.support.due_work import work_off
from tests.support.waiting import until

OTHER_SHOP = 576631


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"webhooks_stay_here": True})


@pytest.fixture
def world(services: Services, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch) -> World:
    # Longer than any test takes, on a busy machine too.
    return world_of(services, sql, monkeypatch, order_wait_s=3600)


# --- what is sent, and to whom


async def test_event_is_delivered_with_its_id_version_and_signature(world: World) -> None:
    made = await world.services.endpoints.add(FULL_ACCESS, {"url": URL})
    subject = new_id()
    event_id = await world.happens(EventType.PAYMENT_PAID, subject, version=3, data={"id": str(subject), "amount": 7})
    await world.work()
    [call] = world.receiver.calls
    written = await world.sql.fetchval("SELECT created_at FROM event")
    assert call.event == {
        "id": str(event_id),
        "type": "payment.paid",
        "timestamp": written.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        "version": 3,
        "data": {"id": str(subject), "amount": 7},
    }
    assert call.headers["webhook-id"] == str(event_id)
    assert call.is_signed_with(made.secret)
    assert await world.states() == ["delivered"]


async def test_text_that_is_signed_is_the_same_at_every_try(world: World) -> None:
    await world.endpoint()
    await world.happens(data={"message": "Цветы 🌷", "metadata": {"b": "1", "a": "2"}})
    world.receiver.answers(500, 200)
    await world.work()
    await world.passes(seconds=6)
    await world.work()
    first, second = world.receiver.calls
    assert first.body == second.body
    assert first.headers["webhook-id"] == second.headers["webhook-id"]


async def test_largest_event_is_under_20_kb(world: World) -> None:
    await world.happens(data={"metadata": {"key": "я" * 9980}})
    async with world.services.database.reading() as session:
        event = (await session.scalars(select(Event))).one()
    assert len(body_of(event).encode()) < 20_480


async def test_endpoint_is_told_of_the_events_and_shops_that_it_wants(world: World) -> None:
    everything = await world.endpoint()
    paid = await world.endpoint(events=["payment.paid"])
    of_shop = await world.endpoint(shops=[SHOP])
    await world.happens(EventType.PAYMENT_PAID)
    await world.happens(EventType.PAYMENT_FAILED)
    await world.happens(EventType.PAYMENT_PAID, shop_id=OTHER_SHOP)
    await world.happens(EventType.ROUTE_CHANGED, shop_id=None)
    await world.work()

    async def told(endpoint_id: Any) -> list[tuple[str, int | None]]:
        query = "SELECT type, shop_id FROM event_delivery WHERE endpoint_id = $1 ORDER BY id"
        return [tuple(row) for row in await world.sql.fetch(query, endpoint_id)]

    all_of_shop = [("payment.paid", SHOP), ("payment.failed", SHOP)]
    assert await told(everything) == [*all_of_shop, ("payment.paid", OTHER_SHOP), ("route.changed", None)]
    assert await told(paid) == [("payment.paid", SHOP), ("payment.paid", OTHER_SHOP)]
    assert await told(of_shop) == all_of_shop


async def test_custom_headers_are_sent_and_cannot_replace_the_signature(world: World) -> None:
    await world.endpoint(headers={"X-Site": "flowers"})
    await world.happens()
    await world.work()
    assert world.receiver.calls[0].headers["X-Site"] == "flowers"
    assert world.receiver.calls[0].headers["Content-Type"] == "application/json"


async def _an_hour_apart(world: World) -> list[Call]:
    """The calls for an event of now, and for one of an hour later."""
    await world.happens()
    await world.work()
    await world.passes(hours=1)
    await world.happens()
    await world.work()
    return world.receiver.calls


async def test_old_secret_signs_too_while_it_is_valid(world: World) -> None:
    made = await world.services.endpoints.add(FULL_ACCESS, {"url": URL})
    new = await world.services.endpoints.rotate_secret(FULL_ACCESS, made.endpoint.id, keep_old_s=3600)
    during, after = await _an_hour_apart(world)
    assert [call.is_signed_with(new.secret) for call in (during, after)] == [True, True]
    assert [call.is_signed_with(made.secret) for call in (during, after)] == [True, False]
    assert during.headers["webhook-signature"].count("v1,") == 2


async def test_secret_of_the_site_stays_valid_when_the_rotation_is_run_again(world: World) -> None:
    """The first new secret was shown to nobody: the command was interrupted, or two people ran it."""
    made = await world.services.endpoints.add(FULL_ACCESS, {"url": URL})
    rotate = world.services.endpoints.rotate_secret
    first, _, new = [await rotate(FULL_ACCESS, made.endpoint.id, keep_old_s=kept_s) for kept_s in (3600, 60, 60)]
    during, after = await _an_hour_apart(world)
    assert [during.is_signed_with(one.secret) for one in (made, first, new)] == [True, True, True]
    assert during.headers["webhook-signature"].count("v1,") == 4
    assert [after.is_signed_with(one.secret) for one in (made, first, new)] == [False, False, True]


async def test_old_secret_can_end_at_once(world: World) -> None:
    made = await world.services.endpoints.add(FULL_ACCESS, {"url": URL})
    new = await world.services.endpoints.rotate_secret(FULL_ACCESS, made.endpoint.id, keep_old_s=0)
    await world.happens()
    await world.work()
    assert not world.receiver.calls[0].is_signed_with(made.secret)
    assert world.receiver.calls[0].is_signed_with(new.secret)


# --- passing on


async def test_event_is_passed_on_once(world: World) -> None:
    await world.endpoint()
    await world.happens()
    assert [await world.pass_on(), await world.pass_on()] == [1, 0]
    assert await world.states() == ["waiting"]


async def test_event_that_a_consumer_cannot_take_stays_and_keeps_no_other_back(world: World) -> None:
    await world.endpoint()
    _, bad, _ = [await world.happens() for _ in range(3)]

    async def choke(_: AsyncSession, events: Sequence[Event]) -> None:
        if bad in {event.id for event in events}:
            raise RuntimeError("not this one")

    before = alarms("event_not_taken")
    assert await Relay(world.services.database, [world.deliveries.consume, choke]).pass_on() == 2
    assert alarms("event_not_taken") > before
    assert await world.states() == ["waiting"] * 2
    assert await world.pass_on() == 1
    assert await world.states() == ["waiting"] * 3


async def test_several_who_pass_on_at_once_do_it_once(world: World) -> None:
    await world.endpoint()
    for _ in range(5):
        await world.happens()
    assert sum(await asyncio.gather(*(world.pass_on() for _ in range(4)))) == 5
    assert await world.states() == ["waiting"] * 5


@pytest.mark.parametrize("told", [True, False])
async def test_written_event_is_passed_on_whether_the_relay_is_told_or_not(
    world: World, monkeypatch: pytest.MonkeyPatch, told: bool
) -> None:
    monkeypatch.setattr(relay, "LOOK_EVERY_S", 3600 if told else 0.05)
    await world.endpoint()
    passing_on = Relay(world.services.database, [world.deliveries.consume])
    running = asyncio.create_task(passing_on.run())
    try:
        for number in range(1, 3):
            await world.happens()
            if told:
                passing_on.wake()

            async def passed(number: int = number) -> bool:
                return len(await world.states()) == number

            await until(passed)
    finally:
        running.cancel()
        await asyncio.wait({running})


async def test_nothing_is_written_for_an_endpoint_that_is_off(world: World) -> None:
    endpoint_id = await world.endpoint()
    await world.services.endpoints.change(FULL_ACCESS, endpoint_id, {"is_active": False})
    await world.happens()
    await world.work()
    assert (world.receiver.calls, await world.states()) == ([], [])


# --- the plan


@pytest.mark.parametrize("status", [200, 201, 204, 299])
async def test_2xx_is_success(world: World, status: int) -> None:
    await world.endpoint()
    await world.happens()
    world.receiver.answers(status)
    await world.work()
    assert await world.states() == ["delivered"]


@pytest.mark.parametrize("answer", [301, 302, 304, 400, 404, 429, 500, 503, REFUSED])
async def test_everything_else_is_failure_and_tried_again(world: World, answer: Any) -> None:
    await world.endpoint()
    await world.happens()
    world.receiver.answers(answer)
    await world.work()
    assert await world.states() == ["waiting"]
    [tried] = await world.sql.fetch("SELECT succeeded, status, error FROM delivery_try")
    expected = (False, None, answer.detail) if answer is REFUSED else (False, answer, None)
    assert tuple(tried) == expected


async def test_tries_follow_the_plan_and_end_as_a_dead_letter(world: World, settings: Settings) -> None:
    await world.endpoint()
    await world.happens()
    world.receiver.answers(500)
    await world.work()
    await world.goes_on_for(days=5)
    at = [row["created_at"] for row in await world.sql.fetch("SELECT created_at FROM delivery_try ORDER BY number")]
    assert len(at) == 10
    for (before, after), delay_s in zip(pairwise(at), settings.webhook_delays_s, strict=True):
        assert delay_s <= (after - before).total_seconds() <= delay_s * 1.1 + 1
    assert await world.states() == ["dead"]


async def test_what_failed_together_does_not_come_back_together(world: World) -> None:
    await world.endpoint()
    for _ in range(5):
        await world.happens()
    world.receiver.answers(500)
    await world.work()
    planned = await world.sql.fetch("SELECT next_try_at FROM event_delivery")
    assert len({row["next_try_at"] for row in planned}) == 5


async def test_outage_of_72_hours_loses_nothing(world: World) -> None:
    await world.endpoint()
    subjects = [new_id() for _ in range(2)]
    world.receiver.answers(REFUSED)
    for version, kind in enumerate((EventType.PAYMENT_PENDING, EventType.PAYMENT_PAID), 1):
        for subject in subjects:
            await world.happens(kind, subject, version=version)
        await world.work()
    await world.goes_on_for(hours=72)
    assert await world.states() == ["waiting"] * 4
    tries_while_away = len(world.receiver.calls)
    world.receiver.answers(OK)
    await world.goes_on_for(hours=30)
    assert await world.states() == ["delivered"] * 4
    taken = world.receiver.calls[tries_while_away:]
    assert len({call.event["id"] for call in taken}) == len(taken) == 4
    assert "endpoint.disabled" not in await world.types()


# --- order


async def test_later_version_waits_for_the_earlier_one(world: World) -> None:
    await world.endpoint()
    subject = new_id()
    for version in (1, 2, 3):
        await world.happens(subject=subject, version=version)
    await world.pass_on()
    [first] = await world.deliveries.claim(40)
    assert await world.deliveries.claim(40) == []
    await world.deliveries.perform(first)
    assert world.receiver.versions == [1]
    await world.work()
    assert world.receiver.versions == [1, 2, 3]


async def test_later_version_waits_only_briefly(world: World) -> None:
    wait_s = world.deliveries.plan.order_wait_s
    world.deliveries = replace(world.deliveries, plan=replace(world.deliveries.plan, delays_s=(2 * wait_s,)))
    await world.endpoint()
    subject = new_id()
    world.receiver.answers(500)
    await world.happens(subject=subject, version=1)
    await world.work()
    world.receiver.answers(OK)
    await world.happens(subject=subject, version=2)
    await world.work()
    assert world.receiver.versions == [1]
    await world.passes(seconds=wait_s + 60)
    await world.work()
    assert world.receiver.versions == [1, 2]
    await world.passes(seconds=2 * wait_s)
    await world.work()
    assert world.receiver.versions == [1, 2, 1]  # late, and its version says so


async def test_events_of_other_objects_do_not_wait(world: World) -> None:
    await world.endpoint()
    world.receiver.answers(500, 200)
    await world.happens(version=1)
    await world.happens(version=2)
    await world.work()
    assert await world.states() == ["waiting", "delivered"]


# --- workers


async def test_two_workers_make_a_try_once(world: World) -> None:
    await world.endpoint()
    await world.happens()
    await world.pass_on()
    assert sorted(await asyncio.gather(*(work_off(world.deliveries) for _ in range(4)))) == [0, 0, 0, 1]
    assert len(world.receiver.calls) == 1


async def test_endpoint_that_hangs_takes_a_few_turns_of_all_workers_and_no_more(world: World) -> None:
    await world.endpoint(url=URL + "/hanging")
    for _ in range(8):
        await world.happens()
    await world.pass_on()
    hanging = [turn for turns in await asyncio.gather(*(world.deliveries.claim(3) for _ in range(4))) for turn in turns]
    assert len(hanging) == len({turn.delivery_id for turn in hanging}) == world.deliveries.plan.at_once
    await world.endpoint(url=URL + "/other")
    await world.happens()
    await world.work()
    assert [call.url for call in world.receiver.calls] == [URL + "/other"]
    await world.deliveries.perform(hanging[0])
    assert len(await world.deliveries.claim(3)) == 1


async def test_endpoints_with_a_backlog_that_hang_keep_no_other_one_waiting(world: World) -> None:
    world.deliveries = replace(world.deliveries, plan=replace(world.deliveries.plan, at_once_in_all=6))
    for _ in range(3):
        await world.endpoint(shops=[SHOP])
    for _ in range(4):
        await world.happens(shop_id=SHOP)
    await world.pass_on()
    hanging = await world.deliveries.claim(6)
    assert len(hanging) == 6
    other = await world.endpoint(shops=[OTHER_SHOP])
    await world.happens(shop_id=OTHER_SHOP)
    await world.pass_on()
    await world.deliveries.perform(hanging[0])
    [next_one] = await world.deliveries.claim(6)
    assert next_one.endpoint_id == other


async def test_no_more_tries_are_made_at_once_than_the_plan_says(world: World) -> None:
    world.deliveries = replace(world.deliveries, plan=replace(world.deliveries.plan, at_once_in_all=7))
    for _ in range(3):
        await world.endpoint()
    for _ in range(5):
        await world.happens()
    await world.pass_on()
    claimed = await asyncio.gather(*(world.deliveries.claim(7) for _ in range(3)))
    assert sum(map(len, claimed)) == 7


async def test_try_whose_worker_died_is_made_again(world: World) -> None:
    await world.endpoint()
    await world.happens()
    await world.pass_on()
    [_dying] = await world.deliveries.claim(40)
    assert await work_off(world.deliveries) == 0  # nobody knows yet that it died
    await world.passes(seconds=LEASE_S + 1)
    assert await work_off(world.deliveries) == 1
    assert (len(world.receiver.calls), await world.states()) == (1, ["delivered"])


@pytest.mark.parametrize("tries", [0, 1, 3])
async def test_what_was_planned_while_the_clock_was_ahead_is_delivered_now(world: World, tries: int) -> None:
    await world.endpoint()
    await world.happens()
    world.receiver.answers(*[500] * tries, 200)
    await world.passes(days=2)
    if not tries:
        await world.pass_on()
        await world.sql.execute("UPDATE event_delivery SET next_try_at = now()")
    for _ in range(tries):
        await world.work()
        await world.passes(seconds=await world.sql.fetchval(DUE_IN_S))
    assert await world.deliveries.bring_forward() == 0
    await world.passes(days=-2)
    await world.work()
    assert len(world.receiver.calls) == tries
    assert await world.deliveries.bring_forward() == 1
    await world.work()
    assert await world.states() == ["delivered"]


async def test_lease_of_a_clock_that_was_ahead_ends_now_and_one_of_this_clock_when_it_is_over(world: World) -> None:
    await world.endpoint()
    await world.happens()
    await world.pass_on()
    await world.passes(hours=1)
    assert len(await world.deliveries.claim(10)) == 1  # and the worker dies
    assert await world.deliveries.bring_forward() == 0
    await world.passes(hours=-1)
    assert await world.deliveries.claim(10) == []
    assert await world.deliveries.bring_forward() == 1
    assert len(await world.deliveries.claim(10)) == 1


async def test_endpoint_whose_secret_cannot_be_opened_keeps_no_other_waiting(world: World) -> None:
    broken, _ = await world.endpoint(), await world.endpoint()
    ciphertext = "UPDATE webhook_endpoint SET secret_ciphertext = 'of a key that was lost' WHERE id = $1"
    async with without_laws(world.sql):
        await world.sql.execute(ciphertext, broken)
    await world.happens()
    await world.work()
    assert len(world.receiver.calls) == 1
    assert sorted(await world.states()) == ["delivered", "waiting"]
    told = await world.sql.fetchval("SELECT error FROM delivery_try WHERE NOT succeeded")
    assert told == "ENCRYPTION_KEYS do not open the endpoint's secret or headers."


async def test_result_of_a_lease_that_ended_is_not_written(world: World) -> None:
    await world.endpoint()
    await world.happens()
    await world.pass_on()
    [late] = await world.deliveries.claim(40)
    passing = timedelta(seconds=LEASE_S + 1)
    await world.passes(seconds=passing.total_seconds())
    await world.deliveries.claim(40)
    await world.deliveries.perform(replace(late, lease_end=late.lease_end - passing))
    assert await world.sql.fetchval("SELECT count(*) FROM delivery_try") == 0


async def test_result_is_written_once_when_the_answer_to_its_commit_was_lost(world: World) -> None:
    await world.endpoint()
    await world.happens()
    await world.pass_on()
    [turn] = await world.deliveries.claim(40)
    for _ in range(2):
        await world.deliveries._write(turn, Posted(500, b""), 5)
    assert await world.sql.fetchval("SELECT count(*) FROM delivery_try") == 1
    assert await world.sql.fetchval("SELECT tries FROM event_delivery") == 1


async def test_try_waits_for_nobody_who_changes_the_endpoint(world: World) -> None:
    endpoint_id = await world.endpoint()
    world.receiver.answers(500)
    await world.happens()
    await world.pass_on()
    async with world.sql.transaction():
        await world.sql.execute("SELECT FROM webhook_endpoint WHERE id = $1 FOR UPDATE", endpoint_id)
        assert await work_off(world.deliveries) == 1
    assert (await world.row(endpoint_id))["failing_since"] is None  # left to the next try
    await world.happens()
    await world.work()
    assert (await world.row(endpoint_id))["failing_since"] is not None


# --- endpoints that fail, and that recover


async def test_endpoint_that_is_gone_is_paused_and_people_are_told(world: World) -> None:
    endpoint_id, before = await world.endpoint(), alarms("endpoint_switched_off")
    await world.happens()
    world.receiver.answers(410)
    await world.work()
    assert alarms("endpoint_switched_off") == before + 1
    row = await world.row(endpoint_id)
    assert (row["is_active"], row["off_reason"]) == (False, "gone")
    assert await world.types() == ["payment.paid", "endpoint.disabled"]
    await world.passes(days=2)
    await world.work()
    assert len(world.receiver.calls) == 1
    assert await world.states() == ["waiting"]


async def test_endpoint_that_fails_for_five_days_is_disabled_and_people_are_told(world: World) -> None:
    endpoint_id = await world.endpoint(description="the site")
    world.receiver.answers(500)
    await world.happens()
    await world.work()
    await world.goes_on_for(days=2)
    await world.happens()
    await world.work()
    await world.goes_on_for(days=3)
    assert (await world.row(endpoint_id))["is_active"]
    await world.goes_on_for(days=1)
    row = await world.row(endpoint_id)
    assert (row["is_active"], row["off_reason"]) == (False, "failing")
    told = await world.sql.fetchrow("SELECT * FROM event WHERE type = 'endpoint.disabled'")
    assert (told["subject_id"], told["version"]) == (str(endpoint_id), row["version"])
    assert '"description": "the site"' in told["data"]


async def test_endpoint_to_which_nothing_was_sent_meanwhile_has_not_failed_for_five_days(world: World) -> None:
    """No worker ran for forty days, or the shop sold nothing: the first failure afterwards says little."""
    endpoint_id = await world.endpoint()
    await world.happens()
    world.receiver.answers(500)
    await world.work()
    await world.passes(days=40)
    await world.happens()
    await world.work()
    assert (await world.row(endpoint_id))["is_active"]
    world.receiver.answers(200)
    await world.goes_on_for(days=1)
    assert await world.states() == ["delivered"] * 2
    assert (await world.row(endpoint_id))["failing_since"] is None


async def test_one_success_in_between_keeps_an_endpoint_on(world: World) -> None:
    endpoint_id = await world.endpoint()
    for day in range(7):
        world.receiver.answers(200 if day == 3 else 500)
        await world.happens()
        await world.work()
        await world.passes(days=1, minutes=1)
    assert (await world.row(endpoint_id))["is_active"]


async def test_url_with_its_secrets_is_not_told_to_others(world: World) -> None:
    await world.endpoint(url="http://127.0.0.1:9009/hook/in-the-path?key=in-the-query")
    await world.happens()
    world.receiver.answers(410)
    await world.work()
    told = await world.sql.fetchval("SELECT data->>'url' FROM event WHERE type = 'endpoint.disabled'")
    assert told == "http://127.0.0.1:9009/…"


async def switched_off(world: World) -> Any:
    """An endpoint that went off by itself, with one delivery that waits."""
    endpoint_id = await world.endpoint()
    await world.happens()
    world.receiver.answers(410)
    await world.work()
    await world.work()
    world.receiver.answers(OK)
    return endpoint_id


async def test_test_that_arrives_switches_an_endpoint_on_again(world: World) -> None:
    endpoint_id = await switched_off(world)
    await world.deliveries.test(FULL_ACCESS, endpoint_id)
    await world.work()
    assert (await world.row(endpoint_id))["is_active"]
    assert await world.types() == ["payment.paid", "endpoint.disabled", "test", "endpoint.recovered"]
    await world.work()
    assert world.receiver.types == ["payment.paid", "test", "payment.paid", "endpoint.recovered"]


async def test_person_switches_an_endpoint_on_again(world: World) -> None:
    endpoint_id = await switched_off(world)
    await world.services.endpoints.change(FULL_ACCESS, endpoint_id, {"is_active": True})
    assert (await world.types())[-1] == "endpoint.recovered"
    await world.work()
    assert world.receiver.types == ["payment.paid", "payment.paid", "endpoint.recovered"]


async def test_test_that_fails_is_over_and_changes_nothing(world: World) -> None:
    endpoint_id = await world.endpoint()
    world.receiver.answers(500)
    await world.deliveries.test(FULL_ACCESS, endpoint_id)
    await world.work()
    assert await world.states() == ["dead"]
    row = await world.row(endpoint_id)
    assert (row["is_active"], row["failing_since"]) == (True, None)


async def test_endpoint_that_a_person_switched_off_stays_off_after_a_test(world: World) -> None:
    endpoint_id = await world.endpoint()
    await world.services.endpoints.change(FULL_ACCESS, endpoint_id, {"is_active": False})
    await world.deliveries.test(FULL_ACCESS, endpoint_id)
    await world.work()
    assert world.receiver.types == ["test"]
    assert (await world.row(endpoint_id))["off_reason"] == "person"


async def test_test_goes_to_its_endpoint_alone(world: World) -> None:
    endpoint_id = await world.endpoint(events=["refund.failed"], url=URL + "/this")
    await world.endpoint(url=URL + "/other")
    await world.deliveries.test(FULL_ACCESS, endpoint_id)
    assert await world.pass_on() == 0  # nor are streams and chats told
    await world.deliver()
    assert [call.url for call in world.receiver.calls] == [URL + "/this"]
