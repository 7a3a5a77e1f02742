"""Reads one payment: by our id, by the provider's id, and its current status from the provider."""

import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from payment_service.access.service import Caller
from payment_service.audit import service as audit
from payment_service.errors import PaymentNotFound, ProviderRefused, ProviderUnavailable
from payment_service.observability.logs import bind, get_logger
from payment_service.observability.metrics import READINGS, labelled
from payment_service.payments import queries
from payment_service.payments.following import FollowPlan
from payment_service.payments.lifecycle import State, Step, agrees, decide_reading
from payment_service.payments.models import Payment
from payment_service.payments.moves import Moves, alarm
from payment_service.payments.shared_readings import SharedReadings
from payment_service.postgres.database import CONNECT_TIMEOUT_S, Database
from payment_service.postgres.visibility import ALL_SHOPS
from payment_service.providers.interface import (
    Meaning,
    NoSuchPayment,
    Providers,
    Reading,
    StatusRead,
    StatusUnread,
)

NOT_POLLED = frozenset({State.PAID, State.CANCELLED})
"""States in which a payment is no longer polled."""
log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ForeignPayment:
    """A payment that this service never made, as the provider shows it."""

    provider: str
    external_id: str
    status: str
    meaning: Meaning


@dataclass(frozen=True, slots=True)
class PaymentReading:
    """Reads payments for callers."""

    database: Database
    providers: Providers
    moves: Moves
    shared: SharedReadings

    async def get(self, caller: Caller, payment_id: UUID) -> Payment:
        """One payment by our id.

        Raises:
            PaymentNotFound: when there is none that the caller may see.
        """
        query = _shown(queries.BY_ID, caller)
        row = await self.database.statements.fetchrow(query, payment_id, within_s=CONNECT_TIMEOUT_S)
        if row is None or not caller.may_touch(row["shop_id"]):
            raise PaymentNotFound(payment_id)
        bind(payment_id=str(payment_id), shop_id=row["shop_id"])
        return queries.of_row(row)

    async def status(self, caller: Caller, provider: str, external_id: str) -> Payment | ForeignPayment:
        """The current status of a payment, read from the provider unless it has ended; also of a payment we never made.

        Raises:
            PaymentNotFound: when neither we nor the provider know it, or the caller may not see it.
            ProviderUnavailable, ProviderRefused: when the status of a payment that is not ours cannot be read.
        """
        payment = await self.find(caller, provider, external_id)
        if payment is None:
            return await self._ask_about_foreign(caller, provider, external_id)
        return await self.refresh(payment)

    async def find(self, caller: Caller, provider: str, external_id: str) -> Payment | None:
        """The payment that a provider knows by this id, as it was last seen; none that the caller may not see."""
        statements, query = self.database.statements, _shown(queries.BY_EXTERNAL_ID, caller)
        row = await statements.fetchrow(query, provider, external_id, within_s=CONNECT_TIMEOUT_S)
        if row is None or not caller.may_touch(row["shop_id"]):
            return None
        bind(payment_id=str(row["id"]), shop_id=row["shop_id"])
        return queries.of_row(row)

    async def refresh(self, payment: Payment) -> Payment:
        """Read the status of a payment that may still move from the provider; a failed reading changes nothing."""
        if payment.external_id is None or payment.state in NOT_POLLED:
            return payment
        external_id = payment.external_id
        reading, asked_at = await self.shared.read(self.providers[payment.provider], external_id)
        payment, now = await queries.get_resolved(self.database, payment.id)
        asked_at_by_database = now - timedelta(seconds=time.monotonic() - asked_at)

        def decision(payment: Payment, now: datetime) -> Step | None:
            return step_of(payment, external_id, reading, asked_at=asked_at_by_database, now=now, plan=self.moves.plan)

        return await self.moves.apply(payment, now, decision, "status", replan=False)

    async def _ask_about_foreign(self, caller: Caller, provider: str, external_id: str) -> ForeignPayment:
        if caller.shops is not ALL_SHOPS or provider not in self.providers:
            # Its shop is not known, so a caller of some shops gets the answer for a payment of another shop.
            raise PaymentNotFound(external_id)
        reading, _ = await self.shared.read(self.providers[provider], external_id)
        async with self.database.transaction() as session:
            await audit.record(
                session,
                "status",
                external_id=external_id,
                status=reading.status if isinstance(reading, StatusRead) else None,
                error_message=None if isinstance(reading, StatusRead) else problem_of(reading),
                provider=provider,
            )
        match reading:
            case StatusRead(status, meaning):
                return ForeignPayment(provider, external_id, status, meaning)
            case NoSuchPayment():
                raise PaymentNotFound(external_id)
            case StatusUnread(refused_by_proxy=True):
                raise ProviderRefused
            case StatusUnread():
                raise ProviderUnavailable


def _shown(query: str, caller: Caller) -> str:
    """A query for one payment, so that it finds only what may be shown to the caller."""
    return query if caller.shops is ALL_SHOPS else query + queries.OF_SELLER


def step_of(
    payment: Payment, external_id: str, reading: Reading, *, asked_at: datetime, now: datetime, plan: FollowPlan
) -> Step | None:
    """The step that a reading of ``external_id`` leads to; none when it failed.

    None too when the payment does not have that id any more: a settlement by hand that named it was undone meanwhile.
    """
    if not isinstance(reading, StatusRead):
        labelled(READINGS, type(reading).__name__).inc()
        log.info("status not read", payment_id=str(payment.id), reason=problem_of(reading))
        return None
    if payment.external_id != external_id:
        return None
    labelled(READINGS, reading.meaning).inc()
    if reading.meaning is Meaning.UNHEARD_OF:
        alarm("unheard_of_status", payment.id, status=reading.status)
    state = State(payment.state)
    step = decide_reading(
        state,
        reading,
        error_seen_at=payment.error_seen_at,
        asked_at=asked_at,
        now=now,
        confirm_after=timedelta(seconds=plan.confirm_s),
    )
    if (state, step.state) == (State.FAILED, State.PAID):
        alarm("late_success", payment.id)
    elif not agrees(state, reading.meaning) and asked_at > payment.moved_at:
        # A reading that was requested before the payment ended is only out of date.
        alarm("state_contradicted", payment.id, state=state, status=reading.status)
    return step


def problem_of(reading: NoSuchPayment | StatusUnread) -> str:
    """Why a reading failed, for logs and the record."""
    return f"{reading.code}: {reading.message}" if isinstance(reading, NoSuchPayment) else reading.reason
