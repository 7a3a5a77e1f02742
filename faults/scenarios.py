"""What shows each planted bug: a few calls under one fault, and the law that the checker must find broken.

The same calls without the plant must leave clean books.
"""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final

from faults import courses, people
from faults.clients import PHONES, Asked, Clients
from faults.largest import largest
from faults.proxy import Course
from faults.rig import Rig
from tests.support.processes import Process
from tests.support.proxy import http
from tests.support.shops import SHOPS, bin_with_checksum, device_token_of
from tests.support.waiting import until

DEADLINE_S: Final = 0.4
SETTINGS: Final = {
    "KASPI_DEADLINE_S": str(DEADLINE_S),
    "SENDING_LEASE_S": "1.2",
    "SWEEP_EVERY_S": "0.2",
    "DUPLICATE_WINDOW_S": "2",
    "LATE_EFFECT_S": "0",
    "KASPI_BREAKER_FAILURES": "10",
}
UNHARMED: Final = 121038
_WINDOW_IS_OVER_S: Final = float(SETTINGS["DUPLICATE_WINDOW_S"]) + 0.2
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
    unharmed: frozenset[int] = frozenset()
    """Shops that nothing befalls."""
    drop: tuple[str, ...] = ()
    """Triggers that would stop the bug first, as ``name ON table``."""
    without: tuple[str, ...] = ()
    """Statements that take other laws away."""
    again: tuple[str, ...] = ()
    """Statements that bring those laws back."""
    copy_of: str = ""
    """The function of an intent of which the process with the bug runs a copy, ``..._planted``, with these changes."""
    changes: tuple[tuple[str, str], ...] = ()


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
    await _lost(stage, stage.clients.payment())
    async with _worker(stage):
        await _settled(stage.rig)


async def _lost(stage: Stage, asked: Asked) -> None:
    """Ask a service that dies with the reply in its hands."""
    mark = {"FAULTS_CRASH": "create/reply-read:1", "FAULTS_MARK": str(stage.rig.folder / "crashes")}
    sender = await stage.rig.serve(**mark, **stage.plant)
    await stage.clients.ask(asked, sender)


@contextlib.asynccontextmanager
async def _worker(stage: Stage) -> AsyncIterator[Process]:
    """A worker, with the bug if there is one."""
    worker = stage.rig.start_worker(**stage.plant)
    try:
        yield worker
    finally:
        await worker.kill()


async def _settled(rig: Rig, but: str | None = None, within_s: float = 10) -> None:
    """Wait until nothing is in ``sending`` but perhaps one payment."""

    async def settled() -> bool:
        left = await rig.pool.fetch("SELECT id FROM payment WHERE state = 'sending'")
        return {str(row["id"]) for row in left} <= {but}

    await until(settled, "lost payments are settled", within_s=within_s)


async def _asked_when_the_window_is_over(stage: Stage) -> None:
    """No worker runs; a client without a key asks again when its sender must have died and the window is over."""
    asked = stage.clients.payment(key=None)
    await _lost(stage, asked)
    await asyncio.sleep(_WINDOW_IS_OVER_S)
    await stage.clients.ask(asked, stage.service)
    async with _worker(stage):
        await _settled(stage.rig)


async def _asked_when_the_lease_is_over(stage: Stage) -> None:
    """No worker runs; a client asks again, with its key, when its sender must have died."""
    asked = stage.clients.payment()
    await _lost(stage, asked)
    await asyncio.sleep(float(SETTINGS["SENDING_LEASE_S"]) + 0.1)
    await stage.clients.ask(asked, stage.service)
    async with _worker(stage):
        await _settled(stage.rig)


async def _same_key_after_the_window(stage: Stage) -> None:
    """The payment is there; its client lost the answer, and asks again much later."""
    asked = stage.clients.payment()
    await stage.clients.ask(asked, stage.service)
    await asyncio.sleep(_WINDOW_IS_OVER_S)
    await stage.clients.ask(asked, stage.service)


async def _same_key_other_metadata(stage: Stage) -> None:
    asked = stage.clients.payment(metadata=(("site", "a"),))
    await stage.clients.ask(asked, stage.service)
    await stage.clients.ask(replace(asked, metadata=(("site", "b"),)), stage.service)


async def _another_request_for_an_unknown_order(stage: Stage) -> None:
    asked = stage.clients.payment(order_id=f"order {stage.clients.random.random()}", amount=10_000)
    stage.fault(asked, courses.applied(courses.reset))
    await stage.clients.ask(asked, stage.service)
    more = stage.clients.payment(order_id=asked.order_id, shop_id=asked.shop_id, amount=200_000)
    await stage.clients.ask(more, stage.service)


async def _stopped_until_a_person_settled(stage: Stage) -> None:
    """A service stands still before its call; meanwhile a worker gives it up, and a person finds nothing was made."""
    rig = stage.rig
    marks = rig.folder / "crashes"
    marks.touch()
    pause = {"FAULTS_PAUSE": "create/after-tx1:1", "FAULTS_MARK": str(marks)}
    sleeper = await rig.serve(**pause, **stage.plant)
    asking = asyncio.create_task(stage.clients.ask(stage.clients.payment(), sleeper))

    async def stands_still() -> bool:
        return str(sleeper.pid) in marks.read_text().split()

    await until(stands_still, "the service stands still", within_s=10)
    async with _worker(stage):
        await _settled(rig)
    await people.settle_all(rig)
    sleeper.signal(signal.SIGCONT)
    await asking
    await sleeper.kill()


async def _one_shop_fails(stage: Stage) -> None:
    """A dozen calls of one shop fail at the proxy; then another shop asks."""
    wishes = [stage.clients.payment(shop_id=576631) for _ in range(12)]
    for asked in wishes:
        stage.fault(asked, courses.says(http(500, b"oh")))
        await stage.clients.ask(asked, stage.service)
    await stage.clients.ask(stage.clients.payment(shop_id=UNHARMED), stage.service)


async def _largest(stage: Stage) -> None:
    """A payment whose every field is as long as it may be."""
    await stage.clients.ask(largest(stage.clients, "create", phone=PHONES[0]), stage.service)


async def _two_lost_and_one_is_bad(stage: Stage) -> None:
    """Of two lost payments the older one cannot be settled by a sweep; in the end a person settles it."""
    rig = stage.rig
    for _ in range(2):
        await _lost(stage, stage.clients.payment())
    bad = str(await rig.pool.fetchval("SELECT id FROM payment WHERE state = 'sending' ORDER BY created_at LIMIT 1"))
    await rig.pool.execute(
        f"""CREATE FUNCTION planted() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN PERFORM break_law('nobody_foresaw_this', 'no'); END $$;
            CREATE TRIGGER planted BEFORE UPDATE ON payment
            FOR EACH ROW WHEN (OLD.id = '{bad}') EXECUTE FUNCTION planted()"""
    )
    try:
        async with _worker(stage):
            with contextlib.suppress(TimeoutError):  # what is left in sending is for the checker to see
                await _settled(rig, but=bad, within_s=4)
    finally:
        await rig.pool.execute("DROP FUNCTION planted() CASCADE")
    await people.settle_one(rig, bad)


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


_RESERVES: Final = (
    "UPDATE payment SET reserved_amount = reserved_amount + coalesce(_amount, remainder) WHERE id = _payment_id;"
)

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
        without=("ALTER TABLE payment_log DROP CONSTRAINT payment_log_keeps_laws",),
        again=(
            """ALTER TABLE payment_log ADD CONSTRAINT payment_log_keeps_laws CHECK (payment_log_keeps_laws(
               operation_type, source, state, amount, reason, report_id, subject, content)) NOT VALID""",
        ),
    ),
    "error-is-believed-at-once": Scenario(play=_error_then_paid, law="error_is_read_twice"),
    "sends-before-the-commit": Scenario(play=_one_payment, law="written_before_sent"),
    "writes-the-record-after-the-commit": Scenario(
        play=_dies_after_its_answer, law="one_line_per_move", drop=("payment_move_is_audited ON payment",)
    ),
    "key-is-not-claimed": Scenario(
        play=_same_key_twice,
        law="applied_once",
        copy_of="payment_intend",
        changes=(("PERFORM claim_key(_caller, _key, _fingerprint, _id);", "NULL;"),),
    ),
    "key-may-be-used-for-another-request": Scenario(
        play=_same_key_for_two,
        law="told_success_was_done",
        copy_of="payment_intend",
        changes=(("claim.fingerprint <> _fingerprint OR", ""),),
    ),
    "order-may-be-open-twice": Scenario(
        play=_same_order_twice,
        law="applied_once",
        without=("DROP INDEX payment_one_open_per_order",),
        copy_of="payment_intend",
        changes=(("IF _order_id IS NOT NULL THEN", "IF false THEN"),),
        again=(
            "DELETE FROM payment AS a USING payment AS b WHERE a.order_id = b.order_id AND a.id > b.id",
            """CREATE UNIQUE INDEX payment_one_open_per_order ON payment (shop_id, order_id)
               WHERE state IN ('sending', 'pending', 'unknown')""",
        ),
    ),
    "sending-does-not-block": Scenario(
        play=_asked_when_the_window_is_over,
        law="applied_once",
        may_be_unknown=True,
        drop=("payment_is_no_repeat ON payment",),
        copy_of="payment_intend",
        changes=(("earlier.state IN ('sending', 'unknown')\n                OR", "earlier.state = 'unknown' OR"),),
    ),
    "key-holds-only-for-the-window": Scenario(
        play=_same_key_after_the_window,
        law="applied_once",
        copy_of="payment_intend",
        changes=(
            (
                "ELSIF FOUND AND earlier.failure IS DISTINCT FROM 'not_sent' THEN",
                "ELSIF FOUND AND earlier.known_at > now() - make_interval(secs => _window_s) THEN",
            ),
        ),
    ),
    "sender-that-died-is-waited-for": Scenario(
        play=_asked_when_the_lease_is_over, law="still_running_ends_with_the_lease", may_be_unknown=True
    ),
    "another-request-gets-the-payment-of-an-unknown-order": Scenario(
        play=_another_request_for_an_unknown_order, law="told_of_its_own_request", may_be_unknown=True
    ),
    "metadata-is-no-part-of-a-key": Scenario(
        play=_same_key_other_metadata,
        law="told_of_its_own_request",
        copy_of="payment_intend",
        changes=(("(FOUND AND earlier.metadata <> _metadata)", "false"),),
    ),
    "breaker-is-shared-by-all-shops": Scenario(
        play=_one_shop_fails, law="unharmed_shops_are_served", may_be_unknown=True, unharmed=frozenset({UNHARMED})
    ),
    "late-sender-still-sends": Scenario(
        play=_stopped_until_a_person_settled, law="written_before_sent", may_be_unknown=True
    ),
    "outcome-meets-a-law-of-size": Scenario(
        play=_largest,
        law="nothing_left_in_sending",
        without=("ALTER TABLE event ADD CONSTRAINT event_is_small CHECK (octet_length(data::text) < 8192) NOT VALID",),
        again=(
            "ALTER TABLE event DROP CONSTRAINT event_is_small",
            "DELETE FROM payment WHERE state = 'sending'",
        ),
    ),
    "sweep-stops-at-a-bad-row": Scenario(
        play=_two_lost_and_one_is_bad, law="nothing_left_in_sending", may_be_unknown=True
    ),
    "shop-without-route-gets-another-shops": Scenario(play=_shop_without_route, law="told_success_was_done"),
    "refund-goes-by-todays-route": Scenario(play=_refund_after_a_move, law="sent_to_the_pinned_account"),
    "refund-takes-no-row-lock": Scenario(
        play=_two_refunds_at_once,
        law="refunds_within_the_payment",
        drop=_SUMS,
        copy_of="refund_intend",
        changes=(
            ("WHERE id = _payment_id FOR UPDATE;", "WHERE id = _payment_id; PERFORM pg_sleep(0.1);"),
            (_RESERVES, _RESERVES.replace("= reserved_amount +", "= paid.reserved_amount +")),
        ),
    ),
    "refund-reserves-nothing": Scenario(
        play=_refund_left_unknown,
        law="refunds_within_the_payment",
        may_be_unknown=True,
        drop=_SUMS,
        copy_of="refund_intend",
        changes=((_RESERVES, "NULL;"),),
    ),
}
"""Plant -> what shows it."""


@contextlib.asynccontextmanager
async def without_laws(rig: Rig, scenario: Scenario) -> AsyncIterator[None]:
    """Take away, in this throw-away database, the laws that would stop the bug; bring them back at the end.

    A process that starts meanwhile has a bug planted: without, it would miss the law. Triggers are dropped: where one
    is only switched off, nothing starts. Rows that break a law go before it is back.
    """
    dropped: list[str] = []
    for law in scenario.drop:
        name, _, table = law.partition(" ON ")
        definition = "SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgname = $1 AND tgrelid = $2::regclass"
        dropped.append(await rig.pool.fetchval(definition, name, table))
        await rig.pool.execute(f"DROP TRIGGER {law}")
    for statement in scenario.without:
        await rig.pool.execute(statement)
    if scenario.copy_of:
        body: str = await rig.pool.fetchval("SELECT pg_get_functiondef($1::regproc)", scenario.copy_of)
        for old, new in ((f"{scenario.copy_of}(", f"{scenario.copy_of}_planted("), *scenario.changes):
            assert old in body, f"{scenario.copy_of} has no {old!r} any more"
            body = body.replace(old, new)
        await rig.pool.execute(body)
    try:
        yield
    finally:
        for statement in dropped:
            await rig.pool.execute(statement)
        if scenario.copy_of:
            await rig.pool.execute(f"DROP FUNCTION {scenario.copy_of}_planted")
        if scenario.again:
            async with rig.pool.acquire() as sql, sql.transaction():
                await sql.execute("SET LOCAL session_replication_role = replica")
                for statement in scenario.again:
                    await sql.execute(statement)
