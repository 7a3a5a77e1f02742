"""Refunds never exceed their payment, whatever comes at once and however the provider answers."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from uuid import uuid4

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from payment_service.errors import RefundAlreadyOpen, RefundExceedsRemainder, StillRunning
from payment_service.money import Money
from payment_service.payments.models import Payment
from payment_service.providers.interface import (
    Accepted,
    LinkPayment,
    Meaning,
    NotSent,
    Outcome,
    PaymentReceipt,
    PhonePayment,
    Reading,
    RefundOfPayment,
    RefundReceipt,
    Rejected,
    StatusRead,
    Unknown,
)
from payment_service.providers.registry import DEFAULT, Registry
from payment_service.refunds.service import RefundAnswer, RefundRequest
from payment_service.services import Services
from tests.support.asking import TESTS, ask

pytestmark = pytest.mark.usefixtures("shops")
OUTCOMES: dict[str, Outcome[RefundReceipt]] = {
    "made": Accepted(RefundReceipt()),
    "rejected": Rejected("-99000005", "exceeds what is left"),
    "lost": Unknown("timeout"),
    "lost though made": Unknown("timeout"),
    "not sent": NotSent("connect_failed"),
}


@dataclass
class FakeProvider:
    """Takes every payment on as paid; ends each refund as it was told and keeps what it truly paid back."""

    courses: Iterator[str]
    paid_back: int = 0
    calls: list[str] = field(default_factory=list)

    async def create(self, payment: PhonePayment) -> Outcome[PaymentReceipt]:
        return Accepted(PaymentReceipt(str(uuid4().int)[:18], "Processed"))

    async def create_link(self, payment: LinkPayment) -> Outcome[PaymentReceipt]:
        raise NotImplementedError

    async def refund(self, refund: RefundOfPayment) -> Outcome[RefundReceipt]:
        course = next(self.courses)
        await asyncio.sleep(0)
        self.calls.append(course)
        if course in {"made", "lost though made"}:
            self.paid_back += refund.amount.tiyn
        return OUTCOMES[course]

    async def read_status(self, external_id: str) -> Reading:
        return StatusRead("Processed", Meaning.PAID)

    def meaning_of(self, status: str | None) -> Meaning:
        return Meaning.PAID

    async def close(self) -> None:
        pass


@contextmanager
def answering(services: Services, courses: list[str]) -> Iterator[tuple[Services, FakeProvider]]:
    """The services with a provider that ends its refunds as told."""
    fake = FakeProvider(iter(courses))
    providers = Registry()
    providers.register(DEFAULT, fake)
    moves = replace(services.reading.moves, providers=providers)
    payments = replace(services.payments, providers=providers, moves=moves)
    reading = replace(services.reading, providers=providers, moves=moves)
    refunds = replace(services.refunds, reading=reading, providers=providers)
    yield replace(services, payments=payments, reading=reading, refunds=refunds, providers=providers), fake


async def fresh_payment(services: Services, tiyn: int) -> Payment:
    request = replace(ask(), amount=Money(tiyn), idempotency_key=uuid4().hex)
    return await services.reading.refresh((await services.payments.create(request)).payment)


some = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
asked = st.lists(st.tuples(st.integers(1, 700), st.sampled_from(sorted(OUTCOMES))), min_size=1, max_size=10)


async def refund_all(
    services: Services, payment: Payment, amounts: list[int], *, keys: bool = True
) -> list[RefundAnswer | BaseException]:
    requests = [
        RefundRequest(
            caller=TESTS,
            payment=payment,
            amount=Money(tiyn),
            idempotency_key=f"{payment.id}-{turn}" if keys else None,
        )
        for turn, tiyn in enumerate(amounts)
    ]
    return await asyncio.gather(*(services.refunds.refund(request) for request in requests), return_exceptions=True)


async def sums(sql: asyncpg.Connection, payment: Payment) -> dict[str, int]:
    rows = await sql.fetch(
        "SELECT state, sum(amount)::bigint AS sum FROM refund WHERE payment_id = $1 GROUP BY state", payment.id
    )
    return {row["state"]: row["sum"] for row in rows}


@some
@given(asked=asked, keys=st.booleans())
async def test_refunds_at_once_never_exceed_the_payment_and_add_up(
    services: Services, sql: asyncpg.Connection, asked: list[tuple[int, str]], keys: bool
) -> None:
    amounts = [tiyn for tiyn, _ in asked]
    with answering(services, [course for _, course in asked]) as (playing, fake):
        payment = await fresh_payment(playing, 1000)
        ended = await refund_all(playing, payment, amounts, keys=keys)
    assert {type(end) for end in ended} <= {RefundAnswer, RefundExceedsRemainder, StillRunning, RefundAlreadyOpen}
    row = await sql.fetchrow("SELECT refunded_amount, reserved_amount FROM payment WHERE id = $1", payment.id)
    assert row is not None
    by_state = await sums(sql, payment)
    assert row["refunded_amount"] == by_state.get("succeeded", 0)
    assert row["reserved_amount"] == by_state.get("unknown", 0)
    assert row["refunded_amount"] <= fake.paid_back <= row["refunded_amount"] + row["reserved_amount"] <= 1000
    assert await sql.fetchval("SELECT count(*) FROM refund WHERE payment_id = $1", payment.id) == len(fake.calls)


@some
@given(amounts=st.lists(st.integers(1, 700), min_size=1, max_size=10))
async def test_what_is_left_after_lost_refunds_is_exact(
    services: Services, sql: asyncpg.Connection, amounts: list[int]
) -> None:
    with answering(services, ["lost"] * len(amounts) + ["made"]) as (playing, _):
        payment = await fresh_payment(playing, 1000)
        await refund_all(playing, payment, amounts)
        left = 1000 - (await sums(sql, payment)).get("unknown", 0)
        # With a key of its own: without one, an amount that was lost before would be that lost refund, asked again.
        one_more = RefundRequest(
            caller=TESTS, payment=payment, amount=Money(left + 1), idempotency_key=f"more-{payment.id}"
        )
        # It may be equal to one that was lost.
        with pytest.raises((RefundExceedsRemainder, RefundAlreadyOpen)):
            await playing.refunds.refund(one_more)
        if left:
            whole = RefundRequest(caller=TESTS, payment=payment, amount=None)
            assert (await playing.refunds.refund(whole)).refund.amount == left


@some
@given(amounts=st.lists(st.integers(1, 1000), min_size=1, max_size=10))
async def test_rejected_refunds_free_all_that_they_reserved(
    services: Services, sql: asyncpg.Connection, amounts: list[int]
) -> None:
    with answering(services, ["rejected"] * len(amounts)) as (playing, fake):
        payment = await fresh_payment(playing, 1000)
        await refund_all(playing, payment, amounts)
        fake.courses = iter(["made"])
        whole = RefundRequest(caller=TESTS, payment=payment, amount=Money(1000), idempotency_key=f"whole-{payment.id}")
        assert (await playing.refunds.refund(whole)).refund.state == "succeeded"
    assert (await sums(sql, payment))["succeeded"] == fake.paid_back == 1000
