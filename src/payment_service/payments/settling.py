"""Settling by hand: what the provider cannot tell, a person looks up in the merchant cabinet and enters, with a reason.

The provider has the last word wherever it can be asked: a settlement that it contradicts is refused. It does not say
which seller an id belongs to, so only a caller of all shops may name one. Another person undoes a wrong settlement.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from math import ceil
from typing import Final, assert_never
from uuid import UUID

from payment_service.access.service import Caller
from payment_service.audit import service as audit
from payment_service.audit.models import AuditEntry
from payment_service.errors import (
    ExternalIdNotProven,
    ExternalIdTaken,
    InvalidInput,
    NothingToSettle,
    NothingToUndo,
    PaymentNotFound,
    ProviderRefused,
    ProviderUnavailable,
    SettledByCaller,
    SettlementContradicted,
    SettlementInUse,
    TooEarlyToSettle,
)
from payment_service.observability.context import origin
from payment_service.observability.logs import bind
from payment_service.payments import queries
from payment_service.payments.lifecycle import Failure, State, Step, undo_settlement
from payment_service.payments.merging import merge_report, unmerge_reports
from payment_service.payments.models import EXTERNAL_ID, ONE_OPEN_PER_ORDER, Payment
from payment_service.payments.moves import Moves
from payment_service.payments.polling import sender_died
from payment_service.payments.rules import PaymentRules
from payment_service.postgres.database import DATABASE_ERRORS, Database, constraint_of
from payment_service.postgres.visibility import ALL_SHOPS
from payment_service.providers.interface import (
    Meaning,
    NoSuchPayment,
    PaymentReceipt,
    Providers,
    Reading,
    StatusRead,
    StatusUnread,
)

TASKS_AT_MOST: Final = 1000
_FITTING: Final[Mapping[State, frozenset[Meaning | None]]] = {
    State.PAID: frozenset({Meaning.PAID}),
    State.PENDING: frozenset(Meaning),
    State.FAILED: frozenset({Meaning.FAILED, Meaning.CANCELLED, None}),
}
"""The states that a person may settle to, and the readings that agree with each; none: no such payment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """What a person found: paid, there and still open (pending), or never made (failed)."""

    state: State
    reason: str
    external_id: str | None = None


@dataclass(frozen=True, slots=True)
class Settling:
    """Settles unknown payments by hand."""

    database: Database
    providers: Providers
    moves: Moves
    rules: PaymentRules

    async def tasks(self, caller: Caller, *, limit: int = TASKS_AT_MOST) -> list[Payment]:
        """Tasks for people, oldest first: payments whose outcome is unknown, or that are open and no longer polled."""
        async with self.database.reading() as session:
            lease_s = self.rules.sending_lease_s
            return await queries.for_people(session, caller.shops, sending_lease_s=lease_s, limit=limit)

    async def count_open(self) -> dict[str, tuple[int, float]]:
        """By state, the number of open payments and the age of the oldest in seconds."""
        async with self.database.reading() as session:
            return await queries.count_open(session)

    async def settle(self, caller: Caller, payment_id: UUID, settlement: Settlement) -> Payment:
        """Move a payment to what a person found: one that is unknown, or whose sender must have died.

        Raises:
            PaymentNotFound, NothingToSettle, InvalidInput: it cannot be settled so.
            ExternalIdNotProven: a caller of some shops names an id.
            TooEarlyToSettle: it may still be made.
            SettlementContradicted, ExternalIdTaken: the record or the provider says otherwise.
            ProviderUnavailable, ProviderRefused: the provider cannot be asked now.
        """
        payment = await self._visible(caller, payment_id)
        external_id = _external_id(payment, settlement)
        if external_id != payment.external_id and caller.shops is not ALL_SHOPS:
            # Before the provider is asked: its answer would tell the caller about another seller's payment.
            raise ExternalIdNotProven
        reading = None
        if external_id is not None:
            reading = await self.providers[payment.provider].read_status(external_id)
            _check(settlement, external_id, reading)
        try:
            return await self._write(payment_id, settlement, external_id, reading)
        except DATABASE_ERRORS as error:
            if constraint_of(error) != EXTERNAL_ID or external_id is None:
                raise
        async with self.database.reading() as session:
            other = await queries.by_external_id(session, payment.provider, external_id)
        raise ExternalIdTaken(external_id, other.id if other else None)

    async def _write(
        self, payment_id: UUID, settlement: Settlement, external_id: str | None, reading: Reading | None
    ) -> Payment:
        async with self.database.transaction() as session:
            payment, now = await queries.locked(session, payment_id)
            age_s = (now - payment.created_at).total_seconds()
            if self.rules.is_lease_over(age_s) and (died := sender_died(payment, now)) is not None:
                await self.moves.write(payment, died, "settle", now=now, session=session)
            if payment.state != State.UNKNOWN or payment.same_as is not None:
                raise NothingToSettle("payment", payment.state)
            if payment.external_id not in {None, external_id}:
                # It became known after the reading, which was about another payment, or none.
                raise InvalidInput("external_id", f"is {payment.external_id} for this payment, which is known by now")
            if settlement.state is State.FAILED:
                check_age(payment.created_at, payment.moved_at, now, self.rules.late_effect_s)
            if external_id is not None and payment.external_id is None:
                await merge_report(session, payment, external_id)
                payment.id_from_settlement = True
            step = _step(settlement, external_id, reading)
            await self.moves.write(payment, step, "settle", now=now, reason=settlement.reason, session=session)
            return payment

    async def undo(self, caller: Caller, payment_id: UUID, reason: str) -> Payment:
        """Undo a settlement that was wrong: the payment is unknown again, and an id that was named is free again.

        Raises:
            PaymentNotFound, NothingToUndo: its state does not come from a settlement.
            SettledByCaller: another person has to undo it.
            SettlementInUse: money was paid back, or the order has another open payment by now.
        """
        seen = await self._visible(caller, payment_id)
        try:
            async with self.database.transaction() as session:
                payment, now = await queries.locked(session, payment_id)
                settlement = await audit.settlement_of(session, payment_id)
                check_undoing("payment", payment.state, settlement, payment.moved_at, named=payment.id_from_settlement)
                if payment.refunded_amount or payment.reserved_amount:
                    raise SettlementInUse("money of this payment was paid back since, or may have been")
                named = payment.external_id if payment.id_from_settlement else None
                payment.unread = 0
                await self.moves.write(
                    payment, undo_settlement(), audit.UNDO_SETTLE, now=now, reason=reason, session=session
                )
                if named is not None:
                    await unmerge_reports(session, payment, named)
                return payment
        except DATABASE_ERRORS as error:
            if constraint_of(error) != ONE_OPEN_PER_ORDER:
                raise
        async with self.database.reading() as session:
            other = await queries.open_of_order(session, seen.shop_id, seen.order_id or "")
        why = f"order {seen.order_id} has another open payment by now, which has to end first"
        raise SettlementInUse(why, **{"id": str(other.id), "state": other.state} if other else {})

    async def _visible(self, caller: Caller, payment_id: UUID) -> Payment:
        async with self.database.reading() as session:
            payment = await session.get(Payment, payment_id)
            if payment is None or not await queries.is_shown(session, payment, caller.shops):
                raise PaymentNotFound(payment_id)
        bind(payment_id=str(payment_id), shop_id=payment.shop_id)
        return payment


def check_undoing(
    what: str, state: str, settlement: AuditEntry | None, moved_at: datetime, *, named: bool = False
) -> None:
    """Refuse to undo unless the state comes from a settlement by somebody else.

    It does when nothing has moved since, or only by a reading of the id that the settlement ``named``.

    Raises:
        NothingToUndo, SettledByCaller: it cannot be undone so.
    """
    if settlement is None or not (named or settlement.created_at == moved_at):
        raise NothingToUndo(what, state)
    if settlement.actor == origin.get().actor:
        raise SettledByCaller


def check_age(made_at: datetime, moved_at: datetime, now: datetime, late_effect_s: float) -> None:
    """Refuse to settle a call as never made while it may still take effect.

    It was made before its row moved, which counts where the row was written while the database's clock was ahead.

    Raises:
        TooEarlyToSettle: with the seconds to wait.
    """
    wait_s = late_effect_s - (now - (made_at if made_at <= now else moved_at)).total_seconds()
    if wait_s > 0:
        raise TooEarlyToSettle(ceil(wait_s))


def _external_id(payment: Payment, settlement: Settlement) -> str | None:
    """The provider's id to read: the one that is known, else the one that the person found."""
    known, found = payment.external_id, settlement.external_id
    if known is not None and found not in {None, known}:
        raise InvalidInput("external_id", f"is {known} for this payment")
    if known is None and found is None and settlement.state is not State.FAILED:
        raise InvalidInput("external_id", "is needed: the merchant cabinet shows it with the payment")
    if known is None and found is not None and settlement.state is State.FAILED:
        raise InvalidInput("external_id", "means that the payment was made: settle it as pending or paid")
    return known or found


def _check(settlement: Settlement, external_id: str, reading: Reading) -> None:
    meaning: Meaning | None = None
    match reading:
        case StatusUnread(refused_by_proxy=True):
            raise ProviderRefused
        case StatusUnread():
            raise ProviderUnavailable
        case NoSuchPayment():
            found = "that there is no such payment"
        case StatusRead(status, meaning):
            found = f"'{status}'"
        case _:
            assert_never(reading)
    if meaning not in _FITTING[settlement.state]:
        raise SettlementContradicted(external_id, found)


def _step(settlement: Settlement, external_id: str | None, reading: Reading | None) -> Step:
    receipt = PaymentReceipt(external_id) if external_id else None
    if not isinstance(reading, StatusRead):
        return Step(State.FAILED, Failure.SETTLED, "settled", "A person found that it was never made.", receipt)
    if settlement.state is State.FAILED:
        message = "The provider says that the payment failed, was refused or expired."
        return Step(State.FAILED, Failure.DECLINED, reading.status, message, receipt, reading.status)
    # A person who found it open may have looked a moment before it was paid.
    state = State.PAID if reading.meaning is Meaning.PAID else settlement.state
    return Step(state, receipt=receipt, status=reading.status)
