"""What shows each planted bug: a few calls under one fault, and the law that the checker must find broken.

The same calls without the plant must leave clean books.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from tests.conftest import SHOPS, device_token_of
from tests.e2e.rig import bin_with_checksum
from tests.faults import courses
from tests.faults.clients import Asked, Clients
from tests.faults.proxy import Course
from tests.faults.rig import Process, Rig, until
from tests.providers.proxy import http

DEADLINE_S: Final = 0.4
SETTINGS: Final = {"KASPI_DEADLINE_S": str(DEADLINE_S), "SENDING_LEASE_S": "0.5", "SWEEP_EVERY_S": "0.2"}
_PAYS_LATER_AFTER_AN_ERROR: Final = "77015219018"
_SUMS: Final = ("refunds_add_up ON refund", "payment_refunds_add_up ON payment")


@dataclass(slots=True)
class Stage:
    """A rig with one service that is the bug's own, or healthy."""

    rig: Rig
    clients: Clients
    service: Process
    plant: dict[str, str]
    """The environment of a process with the bug."""

    def fault(self, asked: Asked, course: Course) -> None:
        """This befalls the next call for a request."""
        self.rig.proxy.plan(asked.op, asked.external_id or asked.word or "", course)

    async def create_under(self, course: Course) -> None:
        """A payment whose one call meets a fault."""
        asked = self.clients.payment()
        self.fault(asked, course)
        await self.clients.ask(asked, self.service)


Play = Callable[[Stage], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What is played for a plant, and what the checker must say."""

    play: Play
    law: str
    """The law that must be found broken."""
    may_be_unknown: bool = False
    drop: tuple[str, ...] = ()
    """Triggers that would stop the bug first, as ``name ON table``."""
    without: tuple[str, ...] = ()
    """Statements that take other laws away."""
    again: tuple[str, ...] = ()
    """Statements that bring those laws back."""


async def _one_payment(stage: Stage) -> None:
    await stage.clients.ask(stage.clients.payment(), stage.service)


async def _applied_and_hanging(stage: Stage) -> None:
    await stage.create_under(courses.applied(courses.hang))


async def _applied_and_reset(stage: Stage) -> None:
    await stage.create_under(courses.applied(courses.reset))


async def _applied_and_failing(stage: Stage) -> None:
    await stage.create_under(courses.applied(courses.says(http(500, b"oh"))))


async def _answered_with_nothing(stage: Stage) -> None:
    await stage.create_under(courses.says(http(200, b"")))


async def _nobody_listens(stage: Stage) -> None:
    asked = stage.clients.payment()
    async with stage.rig.proxy.shut():
        await stage.clients.ask(asked, stage.service)


async def _crossed(stage: Stage) -> None:
    """The second payment's reply names the first one."""
    await _one_payment(stage)
    await stage.rig.queue("create", "duplicate_external_id")
    await _one_payment(stage)


async def _sender_lost(stage: Stage) -> None:
    """A service dies with the reply in its hands; a worker finds what it left behind."""
    rig = stage.rig
    mark = {"FAULTS_CRASH": "create/reply-read:1", "FAULTS_MARK": str(rig.folder / "crashes")}
    sender = await rig.ready(rig.serve(**mark))
    await stage.clients.ask(stage.clients.payment(), sender)
    worker = rig.work(**stage.plant)

    async def settled() -> bool:
        return not await rig.pool.fetchval("SELECT count(*) FROM payment WHERE state = 'sending'")

    try:
        await until(settled, "the lost payment is settled", within_s=10)
    finally:
        await worker.kill()


async def _error_then_paid(stage: Stage) -> None:
    made = await stage.clients.ask(stage.clients.payment(phone=_PAYS_LATER_AFTER_AN_ERROR), stage.service)
    await stage.clients.ask(Asked(op="status", external_id=made.body["external_id"]), stage.service)


async def _dies_after_its_answer(stage: Stage) -> None:
    await _one_payment(stage)
    await stage.service.kill()


async def _same_key_twice(stage: Stage) -> None:
    asked = stage.clients.payment()
    await stage.clients.ask(asked, stage.service)
    await stage.clients.ask(asked, stage.service)


async def _same_key_for_two(stage: Stage) -> None:
    first = stage.clients.payment(amount=10_000)
    await stage.clients.ask(first, stage.service)
    await stage.clients.ask(stage.clients.payment(amount=20_000, key=first.key, shop_id=first.shop_id), stage.service)


async def _same_order_twice(stage: Stage) -> None:
    order = f"order {stage.clients.random.random()}"
    for amount in (10_000, 20_000):
        asked = stage.clients.payment(order_id=order, shop_id=75509, amount=amount)
        await stage.clients.ask(asked, stage.service)


async def _shop_without_route(stage: Stage) -> None:
    await stage.clients.ask(stage.clients.payment(shop_id=999_999), stage.service)


async def _refund_after_a_move(stage: Stage) -> None:
    """The shop gets another account between the payment and its refund."""
    rig, clients = stage.rig, stage.clients
    paid = await clients.paid(shop_id=71691)
    async with _moved(rig, 71691):
        await clients.ask(clients.refund_of(paid, 5_000), stage.service)


async def _two_refunds_at_once(stage: Stage) -> None:
    clients = stage.clients
    paid = await clients.paid(amount=10_000)
    await asyncio.gather(
        *(clients.ask(clients.refund_of(paid, amount), stage.service) for amount in (6_000, 7_000)),
    )


async def _refund_left_unknown(stage: Stage) -> None:
    clients = stage.clients
    paid = await clients.paid(amount=10_000)
    refund = clients.refund_of(paid, 6_000)
    stage.fault(refund, courses.applied(courses.reset))
    await clients.ask(refund, stage.service)


@contextlib.asynccontextmanager
async def _moved(rig: Rig, shop_id: int) -> AsyncIterator[None]:
    """A shop on another account, for a while."""
    other = bin_with_checksum("99010100000")
    rig.register(other, "other-account-0123456789")

    async def put(organization_bin: str, device_token: str) -> None:
        answer = await rig.http.put(
            f"{rig.services[0].url}/admin/configs/{shop_id}",
            json={"organization_bin": organization_bin, "device_token": device_token},
            headers={"Authorization": f"Bearer {rig.key}"},
        )
        answer.raise_for_status()

    await put(other, "other-account-0123456789")
    try:
        yield
    finally:
        await put(SHOPS[shop_id], device_token_of(shop_id))


SCENARIOS: Final = {
    "retries-after-a-read-timeout": Scenario(play=_applied_and_hanging, law="applied_once", may_be_unknown=True),
    "sends-again-what-is-unknown": Scenario(play=_applied_and_failing, law="applied_once", may_be_unknown=True),
    "leaves-the-bin-out": Scenario(play=_one_payment, law="sent_to_the_pinned_account"),
    "sends-tiyn-for-tenge": Scenario(play=_one_payment, law="sent_to_the_pinned_account"),
    "writes-a-token-to-the-log": Scenario(play=_one_payment, law="no_secret_was_written"),
    "empty-body-is-a-success": Scenario(play=_answered_with_nothing, law="told_success_was_done", may_be_unknown=True),
    "server-error-is-a-refusal": Scenario(
        play=_applied_and_failing, law="told_failure_was_not_done", may_be_unknown=True
    ),
    "reset-is-not-sent": Scenario(play=_applied_and_reset, law="told_failure_was_not_done", may_be_unknown=True),
    "not-sent-is-unknown": Scenario(play=_nobody_listens, law="unknown_only_where_allowed"),
    "crossed-reply-is-believed": Scenario(
        play=_crossed,
        law="external_id_is_its_own",
        may_be_unknown=True,
        without=("DROP INDEX payment_external_id",),
        again=(
            "DELETE FROM payment AS a USING payment AS b WHERE a.external_id = b.external_id AND a.id > b.id",
            "CREATE UNIQUE INDEX payment_external_id ON payment (external_id, provider) WHERE same_as IS NULL",
        ),
    ),
    "unknown-is-told-as-failed": Scenario(
        play=_applied_and_hanging, law="told_failure_was_not_done", may_be_unknown=True
    ),
    "lost-sender-is-a-failure": Scenario(
        play=_sender_lost,
        law="state_is_true",
        may_be_unknown=True,
        without=("ALTER TABLE payment_log DROP CONSTRAINT payment_log_settling_has_reason",),
        again=(
            """ALTER TABLE payment_log ADD CONSTRAINT payment_log_settling_has_reason
               CHECK (operation_type <> 'settle' OR state = 'unknown' OR coalesce(reason, '') <> '') NOT VALID""",
        ),
    ),
    "error-is-believed-at-once": Scenario(play=_error_then_paid, law="error_is_read_twice"),
    "sends-before-the-commit": Scenario(play=_one_payment, law="written_before_sent"),
    "writes-the-record-after-the-commit": Scenario(
        play=_dies_after_its_answer, law="one_line_per_move", drop=("payment_move_is_audited ON payment",)
    ),
    "key-is-not-claimed": Scenario(play=_same_key_twice, law="applied_once"),
    "key-may-be-used-for-another-request": Scenario(play=_same_key_for_two, law="told_success_was_done"),
    "order-may-be-open-twice": Scenario(
        play=_same_order_twice,
        law="applied_once",
        without=("DROP INDEX payment_one_open_per_order",),
        again=(
            "DELETE FROM payment AS a USING payment AS b WHERE a.order_id = b.order_id AND a.id > b.id",
            """CREATE UNIQUE INDEX payment_one_open_per_order ON payment (shop_id, order_id)
               WHERE state IN ('sending', 'pending', 'unknown')""",
        ),
    ),
    "shop-without-route-gets-another-shops": Scenario(play=_shop_without_route, law="told_success_was_done"),
    "refund-goes-by-todays-route": Scenario(play=_refund_after_a_move, law="sent_to_the_pinned_account"),
    "refund-takes-no-row-lock": Scenario(play=_two_refunds_at_once, law="refunds_within_the_payment", drop=_SUMS),
    "refund-reserves-nothing": Scenario(
        play=_refund_left_unknown, law="refunds_within_the_payment", may_be_unknown=True, drop=_SUMS
    ),
}
"""Plant -> what shows it."""


async def drop_laws(rig: Rig, scenario: Scenario) -> None:
    """Take away, in this throw-away database, the laws that would stop the bug."""
    for law in scenario.drop:
        trigger, _, table = law.partition(" ON ")
        await rig.pool.execute(f"ALTER TABLE {table} DISABLE TRIGGER {trigger}")
    for statement in scenario.without:
        await rig.pool.execute(statement)


async def restore_laws(rig: Rig, scenario: Scenario) -> None:
    """Bring the laws back, without the rows that break them."""
    for law in scenario.drop:
        trigger, _, table = law.partition(" ON ")
        await rig.pool.execute(f"ALTER TABLE {table} ENABLE TRIGGER {trigger}")
    if scenario.again:
        async with rig.pool.acquire() as sql, sql.transaction():
            await sql.execute("SET LOCAL session_replication_role = replica")
            for statement in scenario.again:
                await sql.execute(statement)
