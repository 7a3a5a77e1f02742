"""Finds payments by any text: order, short code, the provider's id, last four digits, amount or our id.

Each kind of term uses its own index, newest first. Amounts have no index, because every payment would be in it, so only
the payments of the last days are searched by amount.
"""

import contextlib
import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from uuid import UUID

from sqlalchemy import ColumnElement, func, select

from payment_service.money import Money
from payment_service.payments.models import Payment
from payment_service.postgres.database import Database
from payment_service.postgres.visibility import Shops, of_sellers

AMOUNTS_WITHIN: Final = timedelta(days=7)
"""How far back payments are searched by amount."""
_LONGEST: Final = 64
_LAST4: Final = re.compile(r"[0-9]{4}")
_SHORT_CODE: Final = re.compile(r"[A-Za-z0-9]{1,8}")
_AMOUNT: Final = re.compile(r"([0-9]{1,8})(?:[.,]([0-9]{1,2}))?")
_SPACES: Final = re.compile(r"(?<=[0-9])[ \u00a0\u202f](?=[0-9]{3}(?:[^0-9]|$))")


@dataclass(frozen=True, slots=True)
class SearchResult:
    """Payments that match a text, newest first; ``exact`` when it identifies exactly one payment."""

    payments: list[Payment]
    exact: bool
    more: bool
    """Whether there are more than were asked for."""


async def find(database: Database, shops: Shops, text: str, *, limit: int) -> SearchResult:
    """Payments of these shops by order, short code, the provider's id, last four digits, amount or our id."""
    names, attributes = _conditions(text.strip()[:_LONGEST])
    by_id: dict[UUID, Payment] = {}
    named: set[UUID] = set()
    async with database.reading() as session:
        for condition in (*names, *attributes):
            query = select(Payment).where(condition, Payment.same_as.is_(None), of_sellers(Payment, shops))
            newest = query.order_by(Payment.created_at.desc(), Payment.id.desc()).limit(limit + 1)
            for payment in await session.scalars(newest):
                by_id[payment.id] = payment
                if any(condition is name for name in names):
                    named.add(payment.id)
    payments = sorted(by_id.values(), key=lambda payment: (payment.created_at, payment.id), reverse=True)
    return SearchResult(payments[:limit], len(payments) == len(named) == 1, len(payments) > limit)


def _conditions(text: str) -> tuple[list[ColumnElement[bool]], list[ColumnElement[bool]]]:
    """Conditions for the text as an identifier, which few payments share, and as a value that many may share."""
    if not text:
        return [], []
    names: list[ColumnElement[bool]] = [Payment.order_id == text, Payment.external_id == text]
    attributes: list[ColumnElement[bool]] = []
    with contextlib.suppress(ValueError):
        names.append(Payment.id == UUID(text))
    if _SHORT_CODE.fullmatch(text):
        names.append(Payment.short_code == text.upper())
    digits = text.lstrip("•*. ")
    if _LAST4.fullmatch(digits):
        attributes.append(Payment.phone_last4 == digits)
    plain = _SPACES.sub("", text.removesuffix("₸").strip())
    if _AMOUNT.fullmatch(plain) and (amount := Money.from_tenge(plain.replace(",", "."))).tiyn:
        recent = Payment.created_at > func.now() - AMOUNTS_WITHIN
        attributes.append((Payment.amount == amount.tiyn) & recent)
    return names, attributes
