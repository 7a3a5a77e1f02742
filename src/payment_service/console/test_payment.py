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
from payment_service.console.web import HOME, PageContext, finish_in_time, money_of, redirect
from payment_service.errors import IdempotencyKeyReused, InvalidInput, ServiceError, ShopInactive
from payment_service.identifiers import checked_phone
from payment_service.languages import mark
from payment_service.money import MAX_TIYN
from payment_service.payments.service import PaymentRequest

_MESSAGE: Final = mark("Test payment")
_SENT_BEFORE: Final = mark(
    "This form was sent before, with something else in it. Nothing was sent again: open it anew."
)


async def test(context: PageContext) -> Response:
    """The form, and its submission."""
    seller = await read(context)
    if not seller.row.is_active:
        raise ShopInactive(seller.row.shop_id)
    if not context.is_sent:
        return _form(context, seller)
    try:
        request = _request(context, seller)
        payment_id = await _send(context, request)
    except ServiceError as error:
        return _form(context, seller, error)
    return redirect(f"{HOME}/payments/{payment_id}")


async def _send(context: PageContext, request: PaymentRequest) -> UUID:
    answer = await finish_in_time(context, context.services.payments.create(request))
    return answer.payment.id if answer else request.id


def _request(context: PageContext, seller: Seller) -> PaymentRequest:
    """The payment that the form requests.

    Raises:
        InvalidInput: for an invalid sum or phone, or when it is not confirmed that it is real money.
    """
    amount = money_of(context, "amount")
    if not 0 < amount.tiyn <= MAX_TIYN:
        raise InvalidInput("amount", "is no sum")
    try:
        phone = checked_phone(context.form_value("phone"))
    except ValueError as error:
        raise InvalidInput("phone", "is none") from error
    try:
        key = UUID(context.form_value("key"))
    except ValueError as error:
        raise InvalidInput("key", "is none") from error
    if is_money(context) and context.form_value("is_money") != "yes":
        raise InvalidInput("is_money", "is to be said")
    return PaymentRequest(
        caller=replace(context.me.caller, name=CALLER),
        shop_id=seller.row.shop_id,
        amount=amount,
        phone=phone,
        message=texts(context.language).gettext(_MESSAGE),
        idempotency_key=f"test-{key}",
    )


def is_money(context: PageContext) -> bool:
    """Whether the provider is a real one: the stand-in is on this machine, and nothing else may be there."""
    return not context.services.settings.provider_is_here


def _form(context: PageContext, seller: Seller, error: ServiceError | None = None) -> Response:
    sent_before = {"problem": texts(context.language).gettext(_SENT_BEFORE)}
    return context.form_page(
        "test_payment.html",
        error,
        seller=seller,
        key=context.form_value("key") or str(uuid4()),
        is_money=is_money(context),
        given=context.form,
        **(sent_before if isinstance(error, IdempotencyKeyReused) else {}),
    )
