"""A test payment of a seller: an invoice to one's own phone, to see that the money arrives where it should.

The form carries the Idempotency-Key, made here: a form that is sent twice gets the same payment. The page of the
payment updates itself.
"""

from dataclasses import replace
from typing import Final
from uuid import UUID, uuid4

from starlette.responses import Response

from payment_service.console.languages import texts
from payment_service.console.refunding import CALLER
from payment_service.console.sellers import Seller, read
from payment_service.console.web import HOME, Visit, finish_in_time, money_of, redirect
from payment_service.errors import IdempotencyKeyReused, InvalidInput, ServiceError, ShopInactive
from payment_service.identifiers import checked_phone
from payment_service.languages import mark
from payment_service.money import MAX_TIYN
from payment_service.payments.service import PaymentRequest

_MESSAGE: Final = mark("Test payment")
_SENT_BEFORE: Final = mark(
    "This form was sent before, with something else in it. Nothing was sent again: open it anew."
)


async def test(visit: Visit) -> Response:
    """The form, and its submission."""
    seller = await read(visit)
    if not seller.row.is_active:
        raise ShopInactive(seller.row.shop_id)
    if not visit.is_sent:
        return _form(visit, seller)
    try:
        request = _request(visit, seller)
        payment_id = await _send(visit, request)
    except ServiceError as error:
        return _form(visit, seller, error)
    return redirect(f"{HOME}/payments/{payment_id}")


async def _send(visit: Visit, request: PaymentRequest) -> UUID:
    answer = await finish_in_time(visit, visit.services.payments.create(request))
    return answer.payment.id if answer else request.id


def _request(visit: Visit, seller: Seller) -> PaymentRequest:
    """The payment that the form requests.

    Raises:
        InvalidInput: for an invalid sum or phone, or when it is not confirmed that it is real money.
    """
    amount = money_of(visit, "amount")
    if not 0 < amount.tiyn <= MAX_TIYN:
        raise InvalidInput("amount", "is no sum")
    try:
        phone = checked_phone(visit.form_value("phone"))
    except ValueError as error:
        raise InvalidInput("phone", "is none") from error
    try:
        key = UUID(visit.form_value("key"))
    except ValueError as error:
        raise InvalidInput("key", "is none") from error
    if is_money(visit) and visit.form_value("is_money") != "yes":
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
    return not visit.services.settings.provider_is_here


def _form(visit: Visit, seller: Seller, error: ServiceError | None = None) -> Response:
    sent_before = {"problem": texts(visit.language).gettext(_SENT_BEFORE)}
    return visit.form_page(
        "test_payment.html",
        error,
        seller=seller,
        key=visit.form_value("key") or str(uuid4()),
        is_money=is_money(visit),
        given=visit.form,
        **(sent_before if isinstance(error, IdempotencyKeyReused) else {}),
    )
