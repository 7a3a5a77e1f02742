"""Every error of the service, as one tree.

This module owns the words: a stable snake_case ``code`` that programs rely on and a sentence that people read.
It knows nothing of HTTP; ``api/problems.py`` holds the one table from these classes to status codes.

    ServiceError
    ├── NotAuthenticated          authentication_required
    ├── ScopeMissing              scope_missing
    ├── InvalidInput              validation_failed
    ├── ShopNotConfigured         shop_not_configured
    ├── ShopInactive              shop_inactive
    ├── ShopAlreadyConfigured     shop_already_configured
    ├── BinOfSeveralShops         bin_of_several_shops
    ├── DeviceTokenMissing        device_token_missing
    ├── DeviceTokenUnreadable     device_token_unreadable
    ├── TokenOfAnotherBin         token_of_another_bin
    ├── RouteChangeNeedsTwo       route_change_needs_two
    ├── RouteChangeNotFound       route_change_not_found
    ├── RouteChangeWaits          route_change_waits
    ├── RouteChangeOver           route_change_over
    ├── ProposedByCaller          proposed_by_caller
    ├── PaymentNotFound           payment_not_found
    ├── PaymentHasNoLink          payment_has_no_link
    ├── PaymentNotPaid            payment_not_paid
    ├── PaymentIncomplete         payment_incomplete
    ├── RefundExceedsRemainder    refund_exceeds_remainder
    ├── RefundNotFound            refund_not_found
    ├── NothingToSettle           nothing_to_settle
    ├── TooEarlyToSettle          too_early_to_settle
    ├── SettlementContradicted    settlement_contradicted
    ├── ExternalIdTaken           external_id_taken
    ├── ExternalIdNotProven       external_id_not_proven
    ├── NothingToUndo             nothing_to_undo
    ├── SettledByCaller           settled_by_caller
    ├── SettlementInUse           settlement_in_use
    ├── BindingNotFound           binding_not_found
    ├── BindingExists             binding_exists
    ├── MessageNotSent            message_not_sent
    ├── OrderAlreadyOpen          order_already_open
    ├── OrderAlreadyPaid          order_already_paid
    ├── RefundAlreadyOpen         refund_already_open
    ├── HintNotVerified           hint_not_verified
    ├── TooManyHints              too_many_hints
    ├── RateLimited               rate_limited
    ├── TooManyWaiting            too_many_waiting
    ├── WebhookNotFound           webhook_not_found
    ├── DeliveryNotFound          delivery_not_found
    ├── WebhookOff                webhook_off
    ├── IdempotencyKeyReused      idempotency_key_reused
    ├── StillRunning              still_running
    ├── ProviderUnavailable       provider_unavailable
    ├── ProviderRefused           provider_refused
    └── TryAgainLater             service_unavailable
        ├── TooManyConnections    too_many_connections
        ├── DatabaseUnavailable   database_unavailable
        ├── SendingHeld           sending_held
        ├── NoRoomToWait          no_room_to_wait
        └── Draining              draining

A payment or refund that the provider refused is no error of this tree: it is an outcome, kept in its row, and
``api/outcomes.py`` renders it.
"""

import math
from collections.abc import Sequence
from typing import ClassVar

from payment_service.money import MAX_TIYN, Money
from payment_service.rates import Exceeded


class ServiceError(Exception):
    """An error for the caller, with a stable ``code`` and a sentence."""

    code: ClassVar[str] = "internal_error"
    title: ClassVar[str] = "Internal error"
    """Its code in words, where a class does not say otherwise."""
    sentence: ClassVar[str] = ""
    """The detail of an error that always has the same one."""

    def __init_subclass__(cls) -> None:
        if "title" not in vars(cls):
            cls.title = cls.code.replace("_", " ").capitalize()

    def __init__(self, detail: str = "", **extra: object) -> None:
        self.detail = detail or self.sentence
        super().__init__(self.detail)
        self.extra = extra


class NotAuthenticated(ServiceError):
    """No key, or one that is unknown, revoked or expired."""

    code = "authentication_required"

    def __init__(self, what: str = "a valid API key as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'") -> None:
        super().__init__(f"Send {what}.")


class ScopeMissing(ServiceError):
    """The key is good, but may not do this."""

    code = "scope_missing"

    def __init__(self, scope: str) -> None:
        super().__init__(f"This API key lacks the scope '{scope}'.", scope=scope)


class InvalidInput(ServiceError):
    """A field has an invalid value."""

    code = "validation_failed"
    title = "Invalid request"

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}.", errors=[{"field": field, "message": message}])


class ShopNotConfigured(ServiceError):
    """No routing for this shop, or none that the caller may see: the two look alike."""

    code = "shop_not_configured"

    def __init__(self, shop: int | str) -> None:
        super().__init__(f"Shop {shop} has no payment routing.")


class ShopInactive(ServiceError):
    """The shop has routing, and somebody switched it off."""

    code = "shop_inactive"

    def __init__(self, *shop_ids: int) -> None:
        shops = ", ".join(map(str, shop_ids))
        super().__init__(f"The payment routing of shop {shops} is switched off.")


class ShopAlreadyConfigured(ServiceError):
    """A second routing for a shop that has one."""

    code = "shop_already_configured"

    def __init__(self, shop_id: int) -> None:
        super().__init__(f"Shop {shop_id} has payment routing already: change it with PUT.")


class BinOfSeveralShops(ServiceError):
    """Several active shops have this BIN, so it does not identify one."""

    code = "bin_of_several_shops"
    title = "BIN of several shops"

    def __init__(self, organization_bin: str, shop_ids: Sequence[int]) -> None:
        shops = ", ".join(map(str, shop_ids))
        super().__init__(f"Shops {shops} share the BIN {organization_bin}: ask by shop_id.", shop_ids=shop_ids)


class DeviceTokenMissing(ServiceError):
    """Links and refunds need the device token of the organisation that takes the payment."""

    code = "device_token_missing"

    def __init__(self, shop_id: int, *, of_payment: bool = False) -> None:
        """``of_payment``: none is recorded for a payment of the shop, whatever the shop has today."""
        super().__init__(
            f"No device token is recorded for this payment: shop {shop_id} had none for its BIN when it was made, and "
            "a later one is not taken for it. It cannot be refunded here. Refund it in the Kaspi cabinet."
            if of_payment
            else f"Shop {shop_id} has no device token, and a link needs one: set it first."
        )


class DeviceTokenUnreadable(ServiceError):
    """None of the ENCRYPTION_KEYS opens the device token that the operation needs. It is not sent without one."""

    code = "device_token_unreadable"

    def __init__(self, shop_id: int, *, of_payment: bool = False) -> None:
        """``of_payment``: it is the one that a payment of the shop was made with, whatever the shop has today."""
        if of_payment:
            whose = f"that this payment of shop {shop_id} was made with"
            todo = "give the service the key that encrypted it, or refund the payment in the Kaspi cabinet"
        else:
            whose, todo = f"of shop {shop_id}", "set it again"
        super().__init__(f"The device token {whose} cannot be decrypted. Nothing was sent. An operator has to {todo}.")


class TokenOfAnotherBin(ServiceError):
    """The device token is in use with another BIN, at this shop or another: it was registered for that one."""

    code = "token_of_another_bin"
    title = "Device token of another BIN"

    def __init__(self, shop_id: int) -> None:
        super().__init__(
            f"The device token of shop {shop_id} would be one that stands with another BIN, and was registered for it. "
            "Nothing was changed. A shop with another BIN needs the device token of that BIN, or null: no token."
        )


class RouteChangeNeedsTwo(ServiceError):
    """A change of where the money of a shop goes needs two people, and this request came from one, or a program."""

    code = "route_change_needs_two"
    title = "A second administrator is needed"

    def __init__(self, shop_id: int) -> None:
        super().__init__(
            f"The BIN, device token or provider of shop {shop_id} is changed by two administrators: one proposes the "
            "change in the console, and another one confirms it there. Nothing was changed."
        )


class RouteChangeNotFound(ServiceError):
    """No such change of routing, or none that the caller may see."""

    code = "route_change_not_found"
    title = "Change of routing not found"

    def __init__(self, change: object) -> None:
        super().__init__(f"There is no change of routing {change} here.")


class RouteChangeWaits(ServiceError):
    """The shop has a proposed change that nobody has decided yet."""

    code = "route_change_waits"
    title = "A change waits already"

    def __init__(self, shop_id: int) -> None:
        super().__init__(f"A change of shop {shop_id} waits to be confirmed: confirm or refuse that one first.")


class RouteChangeOver(ServiceError):
    """The proposed change was decided, has expired, or was proposed for a route that is not today's any more."""

    code = "route_change_over"
    title = "The change is over"
    sentence = "This change was decided, has expired, or the route has changed since. Propose it anew."


class ProposedByCaller(ServiceError):
    """Nobody confirms a change of their own."""

    code = "proposed_by_caller"
    title = "Proposed by the same person"
    sentence = "You proposed this change. Another administrator has to confirm it."


class PaymentNotFound(ServiceError):
    """This service never made that payment, or the caller may not see it: the two look alike."""

    code = "payment_not_found"

    def __init__(self, payment: object) -> None:
        super().__init__(f"There is no payment {payment} here.")


class PaymentHasNoLink(ServiceError):
    """It was requested by phone, or its link never became known."""

    code = "payment_has_no_link"
    title = "Payment without a link"

    def __init__(self, payment: object) -> None:
        super().__init__(f"Payment {payment} has no link: only create-link makes one.")


class PaymentNotPaid(ServiceError):
    """Only a paid payment can be refunded."""

    code = "payment_not_paid"

    def __init__(self, state: str) -> None:
        super().__init__(f"Only a paid payment can be refunded; this one is {state}.", state=state)


class PaymentIncomplete(ServiceError):
    """A client reported the payment without what a refund needs."""

    code = "payment_incomplete"
    sentence = (
        "A client made this payment and reported it without its amount or its BIN, so it cannot be refunded here."
    )


class RefundNotFound(ServiceError):
    """No such refund."""

    code = "refund_not_found"

    def __init__(self, refund: object) -> None:
        super().__init__(f"There is no refund {refund} here.")


class NothingToSettle(ServiceError):
    """Only what is unknown can be settled by hand."""

    code = "nothing_to_settle"

    def __init__(self, what: str, state: str) -> None:
        super().__init__(f"Only an unknown {what} can be settled by hand; this one is {state}.", state=state)


class TooEarlyToSettle(ServiceError):
    """The call may still take effect: it is too early to know that it did not."""

    code = "too_early_to_settle"

    def __init__(self, wait_s: int) -> None:
        super().__init__(
            f"The call may still take effect at the provider. Look again in {wait_s} seconds, and settle then.",
            retry_after_s=wait_s,
        )


class SettlementContradicted(ServiceError):
    """The provider contradicts the person who settles."""

    code = "settlement_contradicted"
    title = "The provider says otherwise"

    def __init__(self, external_id: str, found: str) -> None:
        super().__init__(f"Asked about {external_id}, the provider says {found}. Nothing was settled.")


class ExternalIdTaken(ServiceError):
    """Another payment has that id of the provider's."""

    code = "external_id_taken"
    title = "Another payment has this external_id"

    def __init__(self, external_id: str, payment_id: object | None) -> None:
        """``payment_id`` is none when that payment has let go of the id meanwhile."""
        whose, extra = (f"payment {payment_id}", {"id": str(payment_id)}) if payment_id else ("another payment", {})
        super().__init__(f"{external_id} is the external_id of {whose}. Nothing was settled.", **extra)


class ExternalIdNotProven(ServiceError):
    """A key of some shops named an id that is not proven to be of its shop. Every such id is answered alike."""

    code = "external_id_not_proven"
    title = "The external_id is not proven"
    sentence = (
        "The provider does not say which seller an id belongs to, so a key that is limited to some shops "
        "cannot name one. Settle it with a key for all shops, or on the command line."
    )


class NothingToUndo(ServiceError):
    """Nobody settled it by hand, or it has moved on since by what the provider itself said."""

    code = "nothing_to_undo"

    def __init__(self, what: str, state: str) -> None:
        super().__init__(
            f"This {what} is {state}. It was not settled by hand, so there is nothing to undo.", state=state
        )


class SettledByCaller(ServiceError):
    """Nobody undoes a settlement of their own."""

    code = "settled_by_caller"
    title = "Settled by the same person"
    sentence = "You made this settlement. Another person has to undo it."


class SettlementInUse(ServiceError):
    """Something relies on the settlement, such as a refund, so it cannot be undone."""

    code = "settlement_in_use"

    def __init__(self, why: str, **extra: object) -> None:
        super().__init__(f"The settlement cannot be undone: {why}.", **extra)


class RefundExceedsRemainder(ServiceError):
    """More than what is left of the payment after earlier refunds, those under way included."""

    code = "refund_exceeds_remainder"
    title = "Refund exceeds what is left"

    def __init__(self, remaining: Money, *, elsewhere: int = 0) -> None:
        """``elsewhere``: tiyn that others say they paid back of it."""
        detail = f"At most {remaining} tenge of this payment can still be refunded."
        if elsewhere >= MAX_TIYN:
            detail += " A client reported a refund of it without its amount: all of it may have been paid back."
        elif elsewhere:
            detail += f" Clients report that they paid back {Money(elsewhere)} tenge of it themselves."
        super().__init__(detail, remaining_amount=remaining.number)


class BindingNotFound(ServiceError):
    """No such binding of a chat, or the caller may not see it: the two look alike."""

    code = "binding_not_found"

    def __init__(self, binding: object) -> None:
        super().__init__(f"There is no binding {binding} of a chat here.")


class BindingExists(ServiceError):
    """The chat is bound to that shop already."""

    code = "binding_exists"
    title = "Chat already bound"

    def __init__(self, address: str, shop_id: int | None) -> None:
        what = f"shop {shop_id}" if shop_id is not None else "all shops"
        super().__init__(f"The chat {address} is bound to {what} already: change that binding, or switch it off first.")


class MessageNotSent(ServiceError):
    """A message that somebody waits for was not accepted."""

    code = "message_not_sent"

    def __init__(self, reason: str) -> None:
        super().__init__(f"The message was not sent: {reason}.")


class OrderAlreadyOpen(ServiceError):
    """The order has a payment that may still be paid, and this request asks for something else."""

    code = "order_already_open"
    title = "Order already has an open payment"

    def __init__(self, order_id: str, payment_id: object, state: str) -> None:
        super().__init__(
            f"Order {order_id} has an open payment, {payment_id}, which is {state}: "
            "wait until it ends before asking for a different one. It can be paid until then, at its own amount.",
            id=str(payment_id),
            state=state,
        )


class OrderAlreadyPaid(ServiceError):
    """The order was paid with this amount, and the payment was not fully refunded."""

    code = "order_already_paid"

    def __init__(self, order_id: str, payment_id: object) -> None:
        super().__init__(
            f"Order {order_id} was already paid with this amount by payment {payment_id}. "
            "Another part of the same amount needs an order id of its own.",
            id=str(payment_id),
            state="paid",
        )


class RefundAlreadyOpen(ServiceError):
    """The payment has a refund of this amount whose end is not known, and this request has another key."""

    code = "refund_already_open"

    def __init__(self, refund_id: object, state: str) -> None:
        super().__init__(
            f"A refund of the same amount of this payment, {refund_id}, is {state}: nothing was sent now. "
            "Wait until its end is known, or repeat it with its own Idempotency-Key.",
            refund_id=str(refund_id),
            state=state,
        )


class HintNotVerified(ServiceError):
    """A hint without a valid signature, or an old one."""

    code = "hint_not_verified"

    def __init__(self, why: str) -> None:
        super().__init__(f"The hint was not accepted: {why}.")


class TooManyHints(ServiceError):
    """More than this process takes in a second."""

    code = "too_many_hints"
    sentence = "Too many hints at once. Nothing is lost: every open payment is polled anyway."


class RateLimited(ServiceError):
    """Too many requests; nothing was done. ``policy`` names what is counted."""

    code = "rate_limited"
    title = "Too many requests"

    def __init__(self, policy: str, what: str, exceeded: Exceeded) -> None:
        rate, self.wait_s = exceeded.rate, math.ceil(exceeded.wait_s)
        super().__init__(
            f"{what}: at most {rate.quota} in {rate.window_s:.0f} seconds. Nothing was done. "
            f"Try again in {self.wait_s} seconds.",
        )
        self.policy = policy
        self.rate = rate


class TooManyWaiting(ServiceError):
    """One key has as many open streams and waiting requests in this process as one may have."""

    code = "too_many_waiting"
    title = "Too many waiting requests"

    def __init__(self, most: int) -> None:
        super().__init__(
            f"One key may have {most} streams and waiting requests open at once. Repeat the request without waiting."
        )


class WebhookNotFound(ServiceError):
    """No such endpoint, or none that the caller may see: the two look alike."""

    code = "webhook_not_found"

    def __init__(self, endpoint: object) -> None:
        super().__init__(f"There is no webhook endpoint {endpoint} here.")


class DeliveryNotFound(ServiceError):
    """No such delivery, or none that the caller may see: the two look alike."""

    code = "delivery_not_found"

    def __init__(self, delivery: object) -> None:
        super().__init__(f"There is no delivery {delivery} here.")


class WebhookOff(ServiceError):
    """Nothing is delivered to an endpoint that is switched off."""

    code = "webhook_off"
    title = "Webhook switched off"

    def __init__(self, endpoint: object) -> None:
        super().__init__(f"The webhook endpoint {endpoint} is switched off: switch it on first.")


class IdempotencyKeyReused(ServiceError):
    """The same key came with another request. Who changed an order must not pay it once more by a new key alone."""

    code = "idempotency_key_reused"

    def __init__(self, operation_id: object | None, state: str | None) -> None:
        """``operation_id`` is of the payment or refund that the key stands for; none when it is of the other kind."""
        sentence = "This Idempotency-Key was used for a different request"
        if operation_id is None:
            super().__init__(f"{sentence}: use a new key.")
        else:
            super().__init__(
                f"{sentence}, {operation_id}, which is {state}: look at that one before you ask with another key.",
                id=str(operation_id),
                state=state,
            )


class StillRunning(ServiceError):
    """The first request with this key, or the same request without one, has not ended."""

    code = "still_running"

    def __init__(self, operation_id: object) -> None:
        super().__init__(
            "The same request is still running. Repeat it in a moment with the same Idempotency-Key.",
            id=str(operation_id),
        )


class ProviderUnavailable(ServiceError):
    """The provider could not be asked for a status; nothing was changed."""

    code = "provider_unavailable"
    sentence = "The payment provider cannot be reached. Nothing was changed. Try again later."


class ProviderRefused(ServiceError):
    """The proxy itself refused us: its token or its address list."""

    code = "provider_refused"
    title = "Refused by the payment proxy"
    sentence = (
        "The payment proxy refused this service. Its operators have to check its credentials and the allowed addresses."
    )


class TryAgainLater(ServiceError):
    """The service cannot serve now; nothing was sent or changed."""

    code = "service_unavailable"


class DatabaseUnavailable(TryAgainLater):
    """The database does not answer."""

    code = "database_unavailable"
    sentence = "The database cannot be reached, has no free connection or refused. Nothing was sent. Try again later."


class SendingHeld(TryAgainLater):
    """The database may have lost what was committed to it, so that nothing is sent until a person has looked."""

    code = "sending_held"
    title = "Sending is held"
    sentence = (
        "Nothing is sent until an operator has made sure that the record is complete. Nothing was sent. "
        "Try again later."
    )


class TooManyConnections(TryAgainLater):
    """This process has as many connections as it can serve."""

    code = "too_many_connections"
    sentence = "This process has too many connections. Nothing was sent. Try again later."


class NoRoomToWait(TryAgainLater):
    """This process has as many streams and waiting requests as it takes."""

    code = "no_room_to_wait"
    title = "Too many waiting requests in all"
    sentence = "This process serves as many streams and waiting requests as it can. Repeat the request without waiting."


class Draining(TryAgainLater):
    """This process is stopping and finishes only what it has begun."""

    code = "draining"
    title = "Shutting down"
    sentence = "This process is stopping; nothing was sent. Try again."
