"""Bugs, planted from outside to see that the checker finds them: each is a mistake that somebody could really make.

A plant is a function that changes ``payment_service`` in this process. Where the database would refuse what the bug
does, the scenario drops that law as well (see scenarios.py).
"""

import dataclasses
import functools
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from payment_service.access.service import FULL_ACCESS, Caller
from payment_service.errors import ShopNotConfigured
from payment_service.idempotency.decisions import Earlier, Rules, Verdict, verdict_for_equal
from payment_service.idempotency.sending import SendingWindow
from payment_service.money import Money
from payment_service.observability.logs import get_logger
from payment_service.payments import lifecycle, moves, outcomes, polling, reading, statements
from payment_service.payments import service as payments
from payment_service.payments.models import Payment
from payment_service.postgres import guarantees
from payment_service.providers import breaker
from payment_service.providers.interface import (
    Accepted,
    Account,
    NotSent,
    Outcome,
    PaymentReceipt,
    Rejected,
    Unknown,
)
from payment_service.providers.kaspi import client as kaspi
from payment_service.providers.kaspi import wire
from payment_service.refunds import service as refunds
from payment_service.refunds import settling as refund_settling
from payment_service.refunds.service import Refunds

Method = Callable[..., Awaitable[Any]]
PLANTS: Final[dict[str, Callable[[], None]]] = {}
log = get_logger(__name__)


def install(name: str) -> None:
    """Plant one bug in this process, which starts although its scenario has dropped laws."""
    _put(guarantees, "missing", _none_missing)
    PLANTS[name]()


async def _none_missing(_session: object) -> list[str]:
    return []


def _plant(bug: Callable[[], None]) -> Callable[[], None]:
    PLANTS[bug.__name__.replace("_", "-")] = bug
    return bug


def _put(owner: Any, name: str, value: Any) -> None:
    getattr(owner, name)  # what was renamed must not look planted
    setattr(owner, name, value)


def _wrap(owner: Any, name: str, around: Callable[[Any], Any]) -> None:
    original = getattr(owner, name)
    setattr(owner, name, functools.wraps(original)(around(original)))


# --- the call


@_plant
def retries_after_a_read_timeout() -> None:
    def around(call: Method) -> Method:
        async def again(self: Any, *rest: Any) -> Any:
            reply = await call(self, *rest)
            return await call(self, *rest) if isinstance(reply, kaspi._NoReply) and reply.sent else reply

        return again

    _wrap(kaspi.KaspiClient, "_call", around)


@_plant
def sends_again_what_is_unknown() -> None:
    def around(send: Method) -> Method:
        async def until_known(self: Any, *rest: Any) -> Any:
            outcome = await send(self, *rest)
            return await send(self, *rest) if isinstance(outcome, Unknown) else outcome

        return until_known

    _wrap(payments.Payments, "_send", around)


@_plant
def leaves_the_bin_out() -> None:
    def around(fetch: Method) -> Method:
        async def without(self: Any, http: Any, operation: str, query: dict[str, str], departure: Any) -> Any:
            query = {name: value for name, value in query.items() if name != "organizationBin"}
            return await fetch(self, http, operation, query, departure)

        return without

    _wrap(kaspi.KaspiClient, "_fetch", around)


@_plant
def sends_tiyn_for_tenge() -> None:
    def around(create: Method) -> Method:
        async def hundredfold(self: Any, payment: Any) -> Any:
            return await create(self, dataclasses.replace(payment, amount=Money(payment.amount.tiyn * 100)))

        return hundredfold

    _wrap(kaspi.KaspiClient, "create", around)


@_plant
def writes_a_token_to_the_log() -> None:
    def around(create: Method) -> Method:
        async def telling(self: Any, payment: Any) -> Any:
            log.info("invoicing", by=payment.account.device_token)
            return await create(self, payment)

        return telling

    _wrap(kaspi.KaspiClient, "create", around)


# --- the reply


@_plant
def empty_body_is_a_success() -> None:
    def around(read: Callable[..., Outcome[PaymentReceipt]]) -> Any:
        def payment(reply: wire.Reply, **more: Any) -> Outcome[PaymentReceipt]:
            return read(reply, **more) if reply.body else Accepted(PaymentReceipt("4711"))

        return payment

    _wrap(wire, "read_payment", around)


@_plant
def server_error_is_a_refusal() -> None:
    def around(read: Callable[..., Outcome[PaymentReceipt]]) -> Any:
        def payment(reply: wire.Reply, **more: Any) -> Outcome[PaymentReceipt]:
            return Rejected("http_500", "The proxy failed.") if reply.http_status >= 500 else read(reply, **more)

        return payment

    _wrap(wire, "read_payment", around)


@_plant
def reset_is_not_sent() -> None:
    _put(kaspi, "_without_reply", lambda broken: NotSent(broken.reason))


@_plant
def not_sent_is_unknown() -> None:
    _put(kaspi, "_without_reply", lambda broken: Unknown(broken.reason))


@_plant
def crossed_reply_is_believed() -> None:
    """Nothing to change in the code: it relies on the law that the scenario drops."""


# --- the decision


@_plant
def unknown_is_told_as_failed() -> None:
    def failed(before: lifecycle.State, outcome: Outcome[PaymentReceipt]) -> lifecycle.Step | None:
        return lifecycle.decide(before, NotSent(outcome.reason) if isinstance(outcome, Unknown) else outcome)

    _put(outcomes, "decide", failed)


@_plant
def lost_sender_is_a_failure() -> None:
    def failed(before: lifecycle.State, _outcome: Outcome[PaymentReceipt]) -> lifecycle.Step | None:
        return lifecycle.decide(before, NotSent("sender_died"))

    _put(polling, "decide", failed)


@_plant
def error_is_believed_at_once() -> None:
    def believed(*rest: Any, **more: Any) -> lifecycle.Step:
        return lifecycle.decide_reading(*rest, **{**more, "error_seen_at": datetime(2026, 1, 1, tzinfo=UTC)})

    _put(reading, "decide_reading", believed)


# --- the steps


@_plant
def sends_before_the_commit() -> None:
    def first_send(intend: Method) -> Method:
        async def and_intend(self: Any, request: Any, route: Any, fingerprint: str) -> Any:
            if route is not None:
                _early[request.id] = await send(self, request, route)
            return await intend(self, request, route, fingerprint)

        return and_intend

    async def sent(_self: Any, request: Any, _route: Any) -> Any:
        return _early.pop(request.id)

    _early: dict[Any, Any] = {}
    send = payments.Payments._send
    _wrap(payments.Payments, "_intend", first_send)
    _put(payments.Payments, "_send", sent)


@_plant
def writes_the_record_after_the_commit() -> None:
    """The line is left to somebody who has not come to it when the process dies."""
    _put(moves, "MOVE", statements.MOVE.replace("FROM moved WHERE changed", "FROM moved WHERE false"))


def _intent_of_the_scenario(service: Any) -> None:
    """Run the scenario's own copy of the intent's function: the bug is in its SQL (scenarios.py)."""
    _put(service, "INTEND", service.INTEND.replace("_intend(", "_intend_planted("))


@_plant
def key_is_not_claimed() -> None:
    _intent_of_the_scenario(payments)


@_plant
def key_may_be_used_for_another_request() -> None:
    _intent_of_the_scenario(payments)


@_plant
def order_may_be_open_twice() -> None:
    _intent_of_the_scenario(payments)


@_plant
def shop_without_route_gets_another_shops() -> None:
    def around(route_of: Method) -> Method:
        async def route(self: Any, request: Any) -> Any:
            try:
                return await route_of(self, request)
            except ShopNotConfigured:
                return await self.routing.route_of(FULL_ACCESS, 121038)

        return route

    def for_that_shop(intend: Method) -> Method:
        async def and_intend(self: Any, request: Any, route: Any, fingerprint: str) -> Any:
            return await intend(self, dataclasses.replace(request, shop_id=route.shop_id), route, fingerprint)

        return and_intend

    _wrap(payments.Payments, "_route", around)
    _wrap(payments.Payments, "_intend", for_that_shop)


# --- asked again


@_plant
def sending_does_not_block() -> None:
    """Beyond the window only an unknown one counts, as it was once."""
    _intent_of_the_scenario(payments)


@_plant
def key_holds_only_for_the_window() -> None:
    """A key is kept as briefly as what came without one."""
    _intent_of_the_scenario(payments)


@_plant
def sender_that_died_is_waited_for() -> None:
    """Whoever asks again is told to wait, for as long as no worker runs."""

    def for_ever(earlier: Earlier | None, rules: Rules, *, by_key: bool) -> Verdict:
        verdict = verdict_for_equal(earlier, rules, by_key=by_key)
        is_sending = earlier is not None and earlier.state == "sending"
        return Verdict.STILL_RUNNING if is_sending and verdict is Verdict.ANSWER else verdict

    _put(payments, "verdict_for_equal", for_ever)


@_plant
def another_request_gets_the_payment_of_an_unknown_order() -> None:
    def around(decide: Callable[..., Verdict]) -> Any:
        def verdict_for_order(open_one: Earlier | None, rules: Rules, *, is_equal: bool) -> Verdict:
            is_unknown = open_one is not None and open_one.state == "unknown"
            return decide(open_one, rules, is_equal=is_equal or is_unknown)

        return verdict_for_order

    _wrap(payments, "verdict_for_order", around)


@_plant
def metadata_is_no_part_of_a_key() -> None:
    _intent_of_the_scenario(payments)


@_plant
def breaker_is_shared_by_all_shops() -> None:
    """Whoever fails, the circuit opens for everybody."""
    shared = breaker.Breaker(10, 10)
    _put(breaker.ShopBreakers, "allows", lambda _self, _shop: shared.allows())
    _put(breaker.ShopBreakers, "observe", lambda _self, _shop, *, failed: shared.observe(failed=failed))


# --- late, and refused


@_plant
def late_sender_still_sends() -> None:
    """A process that stood still goes on as if no time had passed."""

    async def send(_self: SendingWindow, call: Callable[[], Awaitable[Any]]) -> Any:
        return await call()

    _put(SendingWindow, "send", send)


@_plant
def outcome_meets_a_law_of_size() -> None:
    """Nothing to change in the code: it relies on there being no such law."""


@_plant
def sweep_stops_at_a_bad_row() -> None:
    async def in_order(ids: Sequence[UUID], take: Callable[[UUID], Awaitable[None]], *, alarm: str) -> int:
        for one in ids:
            await take(one)
        return len(ids)

    _put(polling, "for_each_isolated", in_order)
    _put(refund_settling, "for_each_isolated", in_order)


# --- refunds


@_plant
def refund_goes_by_todays_route() -> None:
    async def todays_account(self: Refunds, _caller: Caller, payment: Payment) -> tuple[Account, int]:
        route = await self.routing.route_of(FULL_ACCESS, payment.shop_id)
        return Account(route.organization_bin, route.device_token), 0

    _put(Refunds, "_pinned_account", todays_account)


@_plant
def refund_takes_no_row_lock() -> None:
    _intent_of_the_scenario(refunds)


@_plant
def refund_reserves_nothing() -> None:
    _intent_of_the_scenario(refunds)
