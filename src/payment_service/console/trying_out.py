"""A test payment of a seller: an invoice to a phone that somebody holds, to see that money arrives where it should.

The form carries the Idempotency-Key, made here. Whoever presses a second time or goes back sends it again and gets the
same payment. Its page changes by itself.
"""

import asyncio
from dataclasses import replace
from typing import Final
from urllib.parse import urlsplit
from uuid import UUID, uuid4

from starlette.responses import Response

from payment_service.console.languages import mark, texts
from payment_service.console.refunding import CALLER
from payment_service.console.said import field_of, sentence_of, status_of
from payment_service.console.sellers import Seller, read
from payment_service.console.web import HOME, Visit, go
from payment_service.errors import IdempotencyKeyReused, InvalidInput, NotAuthenticated, ServiceError, ShopInactive
from payment_service.identifiers import checked_phone
from payment_service.money import MAX_TIYN, Money
from payment_service.payments.service import PaymentRequest
from payment_service.scheduling.operations import ANSWER_WITHIN_S, NotEndedYet
from payment_service.settings import is_loopback

_MESSAGE: Final = mark("Test payment")
_SENT_BEFORE: Final = mark(
    "This form was sent before, with something else in it. Nothing was sent again: open it anew."
)


async def test(visit: Visit) -> Response:
    """The form, and what it sends."""
    seller = await read(visit)
    if not seller.row.is_active:
        raise ShopInactive(seller.row.shop_id)
    if visit.request.method != "POST":
        return _form(visit, seller)
    try:
        request = _request(visit, seller)
        payment_id = await _send(visit, request)
    except NotAuthenticated:
        raise
    except ServiceError as error:
        return _form(visit, seller, error)
    return go(f"{HOME}/payments/{payment_id}")


async def _send(visit: Visit, request: PaymentRequest) -> UUID:
    services = visit.services
    task = services.inflight.begin(services.payments.create(request))
    until = asyncio.get_running_loop().time() + ANSWER_WITHIN_S
    try:
        return (await services.inflight.wait(task, until=until)).payment.id
    except NotEndedYet:
        return request.id


def _request(visit: Visit, seller: Seller) -> PaymentRequest:
    """What the form asks for.

    Raises:
        InvalidInput: for a sum or a phone that is none, and without the word that it is money.
    """
    try:
        amount = Money.from_tenge(visit.said("amount").replace(" ", "").replace(",", "."))
    except ValueError as error:
        raise InvalidInput("amount", "is no sum") from error
    if not 0 < amount.tiyn <= MAX_TIYN:
        raise InvalidInput("amount", "is no sum")
    try:
        phone = checked_phone(visit.said("phone"))
    except ValueError as error:
        raise InvalidInput("phone", "is none") from error
    try:
        key = UUID(visit.said("key"))
    except ValueError as error:
        raise InvalidInput("key", "is none") from error
    if is_money(visit) and visit.said("is_money") != "yes":
        raise InvalidInput("is_money", "is to be said")
    return PaymentRequest(
        caller=replace(visit.me.caller, name=CALLER),
        shop_id=seller.row.shop_id,
        amount=amount,
        phone=phone,
        message=texts(visit.language).gettext(_MESSAGE),
        idempotency_key=f"test-{key}",
    )


def is_money(visit: Visit) -> bool:
    """Whether the provider is a real one: the stand-in is on this machine, and nothing else may be there."""
    return not is_loopback(urlsplit(visit.services.settings.production_api_url).hostname or "")


def _form(visit: Visit, seller: Seller, error: ServiceError | None = None) -> Response:
    return visit.page(
        "test_payment.html",
        status=status_of(error) if error else 200,
        seller=seller,
        key=visit.said("key") or str(uuid4()),
        is_money=is_money(visit),
        given=visit.form,
        problem=_sentence(visit, error) if error else None,
        wrong=field_of(error) if isinstance(error, InvalidInput) else None,
    )


def _sentence(visit: Visit, error: ServiceError) -> str:
    if isinstance(error, IdempotencyKeyReused):
        return texts(visit.language).gettext(_SENT_BEFORE)
    return sentence_of(error, visit.language)
