"""The worker end to end, with the proxy's side of the wire played."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from math import isnan
from typing import Any

import asyncpg
import httpx
import pytest
import respx

from payment_service.access.service import FULL_ACCESS
from payment_service.observability import metrics
from payment_service.observability.metrics import (
    DATABASE_CLOCK_AHEAD,
    OLDEST_OPEN,
    OPEN,
    TASKS,
    WORK_FAILURES,
    values_of,
)
from payment_service.payments.following import FollowPlan
from payment_service.payments.models import Payment
from payment_service.payments.polling import Polling
from payment_service.postgres.months import AHEAD
from payment_service.reports.service import Report
from payment_service.scheduling import due
from payment_service.services import Services
from payment_service.settings import Settings
from payment_service.worker.service import Worker, worker_over
from tests.support.asking import SHOP, TERMINATE_OTHERS, Alarms, Gate, age, ask, audit_of, paid, taking
from tests.support.books import beyond_the_law
from tests.support.due_work import work_off
from tests.support.replies import accepted, failure, status_reply
from tests.support.waiting import until

pytestmark = pytest.mark.usefixtures("shops")
CREATED = 12800627774
TINY = 0.05


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Settings with tiny intervals."""
    names = ("follow_first_s", "follow_fast_s", "follow_slow_s", "error_confirm_s", "sweep_every_s")
    return settings.model_copy(update=dict.fromkeys(names, TINY))


@pytest.fixture
async def worker(services: Services, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Worker]:
    """A worker at work."""
    monkeypatch.setattr(due, "RETRY_S", TINY)
    monkeypatch.setattr("payment_service.payments.polling.READING_LEASE_S", 1)
    worker = worker_over(services)
    working = asyncio.create_task(worker.run())
    yield worker
    worker.stop()
    async with asyncio.timeout(20):
        await working


async def taken_on(services: Services, wire: respx.MockRouter, **data: Any) -> Payment:
    wire.get("/create/").mock(return_value=accepted(CREATED, **data))
    return (await services.payments.create(ask())).payment


async def reaches(sql: asyncpg.Connection, state: str) -> None:
    async def there() -> bool:
        return bool(await sql.fetchval("SELECT state = $1 FROM payment", state))

    await until(there)


async def sender_dies(services: Services, wire: respx.MockRouter, **words: Any) -> None:
    """A process ends while its call is under way."""
    gate = Gate(accepted(CREATED))
    wire.get("/create/").mock(side_effect=gate)
    sending = asyncio.create_task(services.payments.create(ask(**words)))
    await gate.reached.wait()
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)


def tells(wire: respx.MockRouter, *statuses: str) -> respx.Route:
    """The proxy says these one after the other, and the last one for good."""
    words = iter(statuses)
    last = statuses[-1]
    return wire.get("/status/").mock(side_effect=lambda _request: status_reply(CREATED, next(words, last)))


@pytest.mark.parametrize(
    ("statuses", "state"),
    [
        (("Wait", "RemotePaymentCreated", "Processed"), "paid"),
        (("Wait", "Error"), "failed"),
        (("RemotePaymentCanceled",), "cancelled"),
        (("NobodyKnowsThis", "Processed"), "paid"),
    ],
)
async def test_worker_follows_a_payment_to_its_end(
    services: Services,
    wire: respx.MockRouter,
    sql: asyncpg.Connection,
    worker: Worker,
    statuses: tuple[str, ...],
    state: str,
) -> None:
    tells(wire, *statuses)
    await taken_on(services, wire)
    await reaches(sql, state)
    assert await audit_of(sql) == [("create", "pending"), ("status", state)]
    assert await sql.fetchval("SELECT actor FROM payment_log WHERE operation_type = 'status'") == "worker"
    # A payment that failed may have been paid late, so it is looked at again.
    assert (await sql.fetchval("SELECT next_check_at FROM payment") is None) == (state != "failed")


async def test_worker_follows_what_was_made_before_it_came(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    tells(wire, "Processed")
    await taken_on(services, wire)
    worker = worker_over(services)
    working = asyncio.create_task(worker.run())
    await reaches(sql, "paid")
    worker.stop()
    await working


async def test_two_workers_ask_no_more_than_one(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection, worker: Worker
) -> None:
    second = worker_over(services)
    working = asyncio.create_task(second.run())
    route = tells(wire, "Wait", "Wait", "Processed")
    await taken_on(services, wire)
    await reaches(sql, "paid")
    second.stop()
    await working
    assert route.call_count == await sql.fetchval("SELECT checks FROM payment") == 3


async def test_work_that_fails_is_counted_beside_work_that_does_not(services: Services, worker: Worker) -> None:
    before = values_of(WORK_FAILURES)

    async def fails() -> dict[str, None]:
        raise LookupError

    worker.due_since = fails

    async def counted() -> bool:
        return values_of(WORK_FAILURES)["look_for_late_work",] > before.get(("look_for_late_work",), 0)

    await until(counted)
    assert values_of(WORK_FAILURES)["seal",] == before.get(("seal",), 0)
    assert abs(values_of(DATABASE_CLOCK_AHEAD)[()]) < 1


async def test_worker_comes_back_when_its_connection_was_terminated(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection, worker: Worker
) -> None:
    route = tells(wire, "Wait")
    await taken_on(services, wire)

    async def asked() -> bool:
        return route.called

    await until(asked)
    await sql.execute(TERMINATE_OTHERS)
    tells(wire, "Processed")
    await reaches(sql, "paid")


async def test_reading_that_crashed_is_made_again_when_its_lease_has_ended(
    services: Services,
    wire: respx.MockRouter,
    sql: asyncpg.Connection,
    worker: Worker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    perform = Polling.perform
    crashes = iter(range(2))

    async def crash_twice(self: Polling, turn: Any) -> None:
        if next(crashes, None) is not None:
            raise RuntimeError("crash")
        await perform(self, turn)

    monkeypatch.setattr(Polling, "perform", crash_twice)
    monkeypatch.setattr("payment_service.payments.polling.READING_LEASE_S", 0.2)
    tells(wire, "Processed")
    await taken_on(services, wire)
    await reaches(sql, "paid")


@pytest.mark.parametrize("age_s", [31, -18_000])
async def test_sweep_settles_what_a_dead_process_left_in_sending(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection, worker: Worker, age_s: int
) -> None:
    """Also when the database's clock was five hours ahead then: nobody waits until that time has come."""
    await sender_dies(services, wire)
    await age(sql, age_s)
    await reaches(sql, "unknown")
    assert await audit_of(sql) == [("settle", "unknown")]


@pytest.mark.parametrize(
    ("state", "ahead_s", "brought"),
    [("pending", 86_400, 1), ("pending", 20, 0), ("failed", 400 * 86_400, 1)],
)
async def test_reading_that_was_planned_while_the_clock_was_ahead_is_made_now(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection, state: str, ahead_s: int, brought: int
) -> None:
    taking(wire)
    await services.payments.create(ask())
    failure = "'declined'" if state == "failed" else "NULL"
    plan = f"next_check_at = now() + make_interval(secs => {ahead_s})"
    await beyond_the_law(sql, f"UPDATE payment SET state = '{state}', failure = {failure}, {plan}")
    assert await services.polling.bring_forward() == brought
    assert await sql.fetchval("SELECT next_check_at <= clock_timestamp() FROM payment") is bool(brought)


@pytest.mark.parametrize(
    ("state", "age_s", "resumed"),
    [("pending", 60, 1), ("pending", 86_460, 0), ("unknown", -18_000, 1), ("paid", 60, 0)],
)
async def test_payment_that_looked_too_old_while_the_clock_was_ahead_is_read_again(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection, state: str, age_s: int, resumed: int
) -> None:
    taking(wire)
    await services.payments.create(ask())
    await age(sql, age_s)
    await beyond_the_law(sql, f"UPDATE payment SET state = '{state}', next_check_at = NULL")
    assert await services.polling.bring_forward() == resumed
    assert await sql.fetchval("SELECT count(*) FROM payment WHERE next_check_at <= clock_timestamp()") == resumed
    assert await services.polling.bring_forward() == 0


async def test_sweep_does_all_its_chores(services: Services, wire: respx.MockRouter, sql: asyncpg.Connection) -> None:
    gauges = (
        *(metrics.SENDING_HELD, metrics.LAWS_OFF, metrics.DATABASE_CLOCK_AHEAD, metrics.TOKENS_UNREADABLE),
        *(metrics.LOG_MONTHS_AHEAD, metrics.LOG_ROWS_ASTRAY, metrics.DELIVERIES_WAITING, metrics.LAST_SWEEP),
    )
    for gauge in gauges:
        gauge.set(float("nan"))
    by_kind = (metrics.TASKS, metrics.OPEN, metrics.OLDEST_OPEN, metrics.OLDEST_DUE)
    for gauge in by_kind:
        gauge.clear()
    payment = await paid(services, wire)
    await beyond_the_law(
        sql,
        "UPDATE payment SET reserved_amount = 100, next_check_at = now() + interval '400 days'",
        "INSERT INTO refund (id, payment_id, amount, state, caller, fingerprint, keyed, created_at) VALUES"
        f" (gen_random_uuid(), '{payment.id}', 100, 'sending', 'tests', 'f', false, now() - interval '1 hour')",
    )
    worker = worker_over(services)
    working = asyncio.create_task(worker.run())

    async def all_are_done() -> bool:
        return await sql.fetchval(
            "SELECT EXISTS (SELECT FROM worker_tick) AND EXISTS (SELECT FROM audit_seal)"
            " AND (SELECT state FROM refund) = 'unknown'"
            " AND NOT EXISTS (SELECT FROM payment WHERE next_check_at > now() + interval '1 day')"
        ) and not any(isnan(values_of(gauge)[()]) for gauge in gauges)

    await until(all_are_done)
    worker.stop()
    await working
    assert values_of(metrics.LOG_MONTHS_AHEAD)[()] == AHEAD
    assert all(values_of(gauge) for gauge in by_kind)


async def test_sweep_that_failed_is_not_the_last(
    services: Services,
    wire: respx.MockRouter,
    sql: asyncpg.Connection,
    worker: Worker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failed = asyncio.Event()

    async def fail(_self: Polling) -> int:
        failed.set()
        raise RuntimeError("crash")

    with monkeypatch.context() as broken:
        broken.setattr(Polling, "mark_lost_unknown", fail)
        await asyncio.wait_for(failed.wait(), 10)
    await sender_dies(services, wire)
    await age(sql, 31)
    await reaches(sql, "unknown")


# --- readings that tell nothing, and late ones


async def test_readings_that_tell_nothing_are_counted_until_one_tells_something(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection, worker: Worker
) -> None:
    replies: Iterator[httpx.Response | Exception] = iter(
        [httpx.Response(500), httpx.ConnectError("refused"), failure(-999)]
    )
    gate = Gate(status_reply(CREATED, "Processed"))

    async def reply(request: httpx.Request) -> httpx.Response:
        one = next(replies, None)
        if isinstance(one, Exception):
            raise one
        return one or await gate(request)

    wire.get("/status/").mock(side_effect=reply)
    await taken_on(services, wire)
    await asyncio.wait_for(gate.reached.wait(), 20)
    assert await sql.fetchrow("SELECT state, checks, unread FROM payment") == ("pending", 4, 3)
    gate.open.set()
    await reaches(sql, "paid")
    assert await sql.fetchval("SELECT unread FROM payment") == 0


async def test_pause_grows_with_every_reading_that_tells_nothing(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    plan = FollowPlan(first_s=5, slow_s=180)
    patient = replace(services.polling, moves=replace(services.polling.moves, plan=plan))
    await taken_on(services, wire)
    wire.get("/status/").mock(return_value=httpx.Response(500))
    pauses = []
    for _ in range(8):
        await sql.execute("UPDATE payment SET next_check_at = now()")
        await work_off(patient)
        pauses.append(await sql.fetchval("SELECT extract(epoch FROM next_check_at - updated_at)::float FROM payment"))
    for pause, least in zip(pauses, (5, 10, 20, 40, 80, 160, 180, 180), strict=True):
        assert least <= pause <= least * 1.5
    assert pauses[-1] != pauses[-2]  # jitter: what failed together does not come back together


async def test_payment_that_failed_and_was_paid_late_is_found_with_an_alarm(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection, worker: Worker
) -> None:
    alarms = Alarms()
    tells(wire, "Error")
    await taken_on(services, wire)
    await reaches(sql, "failed")
    planned = await sql.fetchval("SELECT extract(epoch FROM next_check_at - moved_at)::int FROM payment")
    assert planned == services.settings.follow_tails_s[0]
    tells(wire, "Processed")
    await sql.execute("UPDATE payment SET next_check_at = now() - interval '2 seconds'")
    await reaches(sql, "paid")
    assert alarms["late_success"] == 1
    assert await sql.fetchrow("SELECT failure, next_check_at FROM payment") == (None, None)


async def test_failed_payment_is_looked_at_again_as_often_as_is_set(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection, settings: Settings
) -> None:
    await taken_on(services, wire)
    tells(wire, "Error")
    for _ in range(2):
        await sql.execute(
            "UPDATE payment SET next_check_at = now(), error_seen_at = error_seen_at - interval '1 minute'"
        )
        await work_off(services.polling)
    for tail_s in settings.follow_tails_s:
        assert await sql.fetchval("SELECT extract(epoch FROM next_check_at - moved_at)::int FROM payment") == tail_s
        await sql.execute(
            "UPDATE payment SET next_check_at = now(), moved_at = now() - make_interval(secs => $1)", tail_s
        )
        await work_off(services.polling)
    assert await sql.fetchrow("SELECT state, next_check_at FROM payment") == ("failed", None)


async def test_unknown_payment_with_an_external_id_is_asked_about_at_once(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection, worker: Worker
) -> None:
    tells(wire, "Processed")
    wire.get("/create-link/").mock(return_value=accepted(paymentId=CREATED))
    assert (await services.payments.create(ask(phone=None))).payment.state == "unknown"
    await reaches(sql, "paid")
    assert await audit_of(sql) == [("create-link", "unknown"), ("status", "paid")]


async def test_reported_payment_is_followed_like_ours(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection, worker: Worker
) -> None:
    tells(wire, "Wait", "Processed")
    await services.reports.write(FULL_ACCESS, Report(shop_id=SHOP, operation_type="create", external_id=str(CREATED)))
    await reaches(sql, "paid")
    assert await audit_of(sql) == [("create", None), ("status", "pending"), ("status", "paid")]


async def test_payment_that_stays_open_too_long_becomes_a_task(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection, worker: Worker
) -> None:
    alarms = Alarms()
    tells(wire, "Wait")
    payment = await taken_on(services, wire)
    await age(sql, services.settings.follow_for_s + 1)

    async def given_up() -> bool:
        return bool(await sql.fetchval("SELECT next_check_at IS NULL FROM payment"))

    await until(given_up)
    assert [task.id for task in await services.settling.tasks(FULL_ACCESS)] == [payment.id]
    assert alarms["still_open"] == 1


@pytest.mark.parametrize(
    ("replies", "state"),
    [
        ([status_reply(CREATED, "Error")], "failed"),
        ([httpx.Response(500), status_reply(CREATED, "Processed")], "paid"),
    ],
)
async def test_what_stayed_open_while_no_worker_ran_for_forty_days_comes_to_its_end(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection, replies: list[httpx.Response], state: str
) -> None:
    words = iter(replies)
    await taken_on(services, wire)
    await age(sql, 40 * 86400)
    wire.get("/status/").mock(side_effect=lambda _request: next(words, replies[-1]))
    alarms = Alarms()

    async def has_ended() -> bool:
        await sql.execute("UPDATE payment SET next_check_at = now() WHERE next_check_at IS NOT NULL")
        await work_off(services.polling)
        return bool(await sql.fetchval("SELECT state = $1 FROM payment", state))

    await until(has_ended)
    assert alarms["still_open"] == 0


async def test_what_is_open_and_what_waits_for_people_is_counted_for_prometheus(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection, worker: Worker
) -> None:
    wire.get("/create/").mock(return_value=httpx.Response(500))
    for tenge in (1, 2):
        await services.payments.create(ask(tenge))
    await age(sql, 100)

    def counts(number: int, oldest_s: int) -> Callable[[], Awaitable[bool]]:
        async def there() -> bool:
            unknown = OPEN.labels("payment", "unknown")._value.get()
            since = OLDEST_OPEN.labels("payment", "unknown")._value.get()
            tasks = TASKS.labels(kind="payment")._value.get()
            return bool((unknown, tasks) == (number, number) and oldest_s <= since < oldest_s + 60)

        return there

    await until(counts(2, 100))
    await sql.execute("SET session_replication_role = replica")
    await sql.execute("UPDATE payment SET state = 'failed', failure = 'settled'")
    await until(counts(0, 0))


# --- one kind of work beside the others


async def test_flood_of_readings_that_hang_keeps_no_lost_sender_waiting(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection, worker: Worker
) -> None:
    gate = Gate(status_reply(CREATED, "Wait"))
    wire.get("/status/").mock(side_effect=gate)
    await taken_on(services, wire)
    await asyncio.wait_for(gate.reached.wait(), 10)
    await sender_dies(services, wire, message="another")
    await age(sql, 31)

    async def settled() -> bool:
        return bool(await sql.fetchval("SELECT count(*) FROM payment WHERE state = 'unknown'"))

    await until(settled)
    gate.open.set()


async def test_hint_is_read_at_once_and_not_at_the_next_look(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(due, "IDLE_S", 3600)
    tells(wire, "Processed")
    await taken_on(services, wire)
    await sql.execute("UPDATE payment SET next_check_at = now() + interval '1 hour'")
    worker = worker_over(services)
    working = asyncio.create_task(worker.run())

    async def listens() -> bool:
        here = "datname = current_database() AND query LIKE 'LISTEN%work_due%'"
        return bool(await sql.fetchval(f"SELECT count(*) FROM pg_stat_activity WHERE {here}"))

    await until(listens)
    await services.polling.hint("kaspi", str(CREATED), shop_id=SHOP)
    await reaches(sql, "paid")
    worker.stop()
    await working


# --- plans that change


async def test_plan_that_changes_loses_no_reading(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection, worker: Worker
) -> None:
    words = iter(["Wait", "Error", "Wait"])
    wire.get("/status/").mock(side_effect=lambda _: status_reply(CREATED, next(words, "Wait")))
    payment = await taken_on(services, wire)
    for _ in range(3):  # in passing, while the worker takes its turns
        await services.reading.refresh(payment)
        await services.polling.hint("kaspi", str(CREATED), shop_id=SHOP)
    tells(wire, "Processed")
    await reaches(sql, "paid")


async def test_worker_that_is_stopped_lets_the_turn_in_hand_end(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(_request: httpx.Request) -> httpx.Response:
        begun.set()
        await go_on.wait()
        return status_reply(CREATED, "Processed")

    wire.get("/status/").mock(side_effect=slow)
    worker = worker_over(services)
    working = asyncio.create_task(worker.run())
    await taken_on(services, wire)
    await asyncio.wait_for(begun.wait(), 10)
    worker.stop()
    go_on.set()
    async with asyncio.timeout(20):
        await working
    assert await sql.fetchval("SELECT state FROM payment") == "paid"


async def test_worker_that_is_stopped_before_it_began_ends(services: Services) -> None:
    worker = worker_over(services)
    worker.stop()
    async with asyncio.timeout(20):
        await worker.run()
