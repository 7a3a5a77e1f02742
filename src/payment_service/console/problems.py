"""The sentences about errors in the person's language, and their HTTP status."""

from collections.abc import Mapping
from typing import Final, cast

from payment_service import errors
from payment_service.console.languages import texts
from payment_service.errors import ServiceError
from payment_service.languages import Language, mark
from payment_service.notifications.texts import money
from payment_service.postgres.database import is_unreachable

_STATUS: Final[Mapping[type[ServiceError], int]] = {
    errors.NotAuthenticated: 401,
    errors.InvalidInput: 422,
    errors.RefundExceedsRemainder: 422,
    errors.PaymentNotFound: 404,
    errors.RefundNotFound: 404,
    errors.ShopNotConfigured: 404,
    errors.RouteChangeNotFound: 404,
    errors.ProposedByCaller: 403,
    errors.WebhookNotFound: 404,
    errors.DeliveryNotFound: 404,
    errors.ExternalIdNotProven: 403,
    errors.SettledByCaller: 403,
    errors.RateLimited: 429,
    errors.ProviderUnavailable: 503,
    errors.ProviderRefused: 502,
}
_SENTENCES: Final[Mapping[type[ServiceError], str]] = {
    errors.PaymentNotFound: mark("There is no such payment here, or it is of a shop that you do not see."),
    errors.RefundNotFound: mark("There is no such refund here, or it is of a shop that you do not see."),
    errors.ShopNotConfigured: mark("There is no such seller here, or it is one that you do not see."),
    errors.TokenOfAnotherBin: mark(
        "A device token belongs to one BIN, and this one stands with another. Write that of the new BIN, or remove it."
    ),
    errors.RouteChangeNeedsTwo: mark("Somebody has to confirm this change: propose it anew."),
    errors.RouteChangeNotFound: mark("There is no such change here."),
    errors.RouteChangeWaits: mark("Another change of this seller waits already: confirm or refuse that one first."),
    errors.RouteChangeOver: mark(
        "This change was decided, has expired, or the route has changed since. Nothing was changed."
    ),
    errors.ProposedByCaller: mark("You proposed this change yourself, so another administrator has to confirm it."),
    errors.ShopInactive: mark("This seller is switched off and takes no payments."),
    errors.WebhookNotFound: mark("There is no such webhook here, or it is of a shop that you do not see."),
    errors.DeliveryNotFound: mark("There is no such delivery here, or it is of a shop that you do not see."),
    errors.WebhookOff: mark("The webhook is switched off: nothing can be sent to it."),
    errors.PaymentNotPaid: mark("Only a paid payment can be refunded."),
    errors.PaymentIncomplete: mark(
        "A client made this payment and reported it without its sum or BIN: refund it in the Kaspi cabinet."
    ),
    errors.DeviceTokenMissing: mark(
        "No device token is recorded for this payment, and a later one does not count: refund it in the Kaspi cabinet."
    ),
    errors.DeviceTokenUnreadable: mark(
        "The device token cannot be decrypted. Nothing was sent: tell an administrator."
    ),
    errors.RefundExceedsRemainder: mark("At most %(left)s of this payment can still be refunded."),
    errors.IdempotencyKeyReused: mark(
        "Somebody has just refunded another sum of this payment. Nothing was sent: look at it once more."
    ),
    errors.StillRunning: mark("The same is under way already. Nothing was sent twice."),
    errors.RefundAlreadyOpen: mark(
        "A refund of the same sum is not known to have ended. Nothing was sent: settle it first."
    ),
    errors.NothingToSettle: mark("It is known by now what became of it: there is nothing to settle."),
    errors.TooEarlyToSettle: mark(
        "Kaspi may still carry it out. Look into the cabinet again in %(wait)s s, and settle then."
    ),
    errors.SettlementContradicted: mark("Kaspi says otherwise, so nothing was settled: look at the id once more."),
    errors.ExternalIdTaken: mark("That Kaspi id belongs to another payment. Nothing was settled."),
    errors.ExternalIdNotProven: mark("Only those who see all shops may name a Kaspi id."),
    errors.NothingToUndo: mark("There is no settlement by hand that could be undone."),
    errors.SettledByCaller: mark("You settled it yourself, so another person has to undo it."),
    errors.SettlementInUse: mark(
        "The settlement is in use by now and cannot be undone: money went back, or the order was paid anew."
    ),
    errors.ProviderUnavailable: mark("Kaspi cannot be reached. Nothing was changed: try again in a minute."),
    errors.ProviderRefused: mark("Kaspi's proxy refuses this service: tell an engineer. Nothing was changed."),
    errors.RateLimited: mark("Too many attempts. Try again in %(wait)s s."),
    errors.SendingHeld: mark(
        "Nothing is sent until an engineer has made sure that the record is complete. Nothing was sent."
    ),
    errors.DatabaseUnavailable: mark("The database does not answer. Nothing was sent: try again in a minute."),
}
_FIELDS: Final[Mapping[str, str]] = {
    "password": mark("The password is not right."),
    "proof": mark("Confirm first who you are."),
    "new_password": mark("Take at least 10 characters that do not repeat themselves or hold your name."),
    "amount": mark("A sum is written in tenge, such as 5000 or 99,50."),
    "whole_amount": mark("That is not all that is left. Type the sum that goes back, or choose a part."),
    "external_id": mark("Take the Kaspi id as the cabinet shows it with the payment."),
    "provider_refund_id": mark("That is the id of another refund of this payment."),
    "reason": mark("Say in a few words who found what, and where."),
    "state": mark("Choose what you found."),
    "organization_bin": mark("A BIN has 12 digits, and the last one fits the others. Look at it once more."),
    "device_token": mark("A device token has 8 to 50 letters, digits and dashes, as Kaspi gave it."),
    "is_money": mark("Say that you know that it is money."),
    "shop": mark("A shop is named by its number."),
    "day": mark("A day is written as 2026-11-30."),
    "cursor": mark("This address is none that the console made. Begin at the newest ones."),
    "why": mark("Say in a few words why, and who asked for it."),
    "decision": mark("Choose one of the two."),
    "name": mark("That is too long."),
    "city": mark("That is too long."),
    "description": mark("That is too long."),
    "version": mark("Somebody has changed this route since you opened the page: look at it once more."),
    "phone": mark("A phone is written as 8 701 123 45 67 or +7 701 123 45 67."),
    "email": mark("Take an e-mail address that has no account yet, up to 64 characters."),
    "person_name": mark("A name has 1 to 100 characters."),
    "role": mark("Choose a role."),
    "shops": mark("A florist has at least one shop; an administrator has all of them, so choose none."),
    "limit": mark("A limit is written in tenge, such as 50000. A limit that was set can be changed, not removed."),
    "key_name": mark(
        "A name is 1 to 64 letters, digits, dots and dashes, such as bitrix-prod; not one that the service has, "
        "and not that of a key of other shops."
    ),
    "scopes": mark("Choose what the key may do."),
    "chosen_shops": mark("Choose all shops, or only some of them and which."),
    "url": mark("Take an address that begins with https:// and leads to the public Internet."),
    "events": mark("Choose all events, or only some of them and which."),
    "why_off": mark("Say in a few words why it is switched off."),
    "days": mark("Days are a number from 1 to 3650; empty: it does not end by itself."),
    "own_account": mark("Your own account is changed by another administrator."),
    "administrator": mark(
        "Two administrators are needed here to change where money goes, so none of them alone makes another one, or a "
        "link to the account of one. Ask who runs the service: the command 'people' does it."
    ),
    "refund_reason": mark("Say in a few words why the money goes back."),
    "period": mark("Write a day as 2026-11-30, a month as 2026-11."),
}
_UNFORESEEN: Final = mark("Something went wrong here. It was noted. Look at the payment before you repeat anything.")


def status_of(error: Exception) -> int:
    """The HTTP status of an error."""
    if isinstance(error, errors.TryAgainLater):
        return 503
    if isinstance(error, ServiceError):
        return _STATUS.get(type(error), 409)
    return 503 if is_unreachable(error) else 500


def sentence_of(error: Exception, language: Language) -> str:
    """The sentence about an error that people see."""
    say = texts(language).gettext
    match error:
        case errors.InvalidInput():
            return say(_FIELDS.get(field_of(error) or "", _UNFORESEEN))
        case errors.RefundExceedsRemainder():
            left = money(cast("float", error.extra["remaining_amount"]), ",")
            return say(_SENTENCES[errors.RefundExceedsRemainder]) % {"left": left}
        case errors.TooEarlyToSettle():
            return say(_SENTENCES[errors.TooEarlyToSettle]) % {"wait": error.extra["retry_after_s"]}
        case errors.RateLimited():
            return say(_SENTENCES[errors.RateLimited]) % {"wait": error.wait_s}
        case ServiceError():
            return say(_SENTENCES.get(type(error), _UNFORESEEN))
    return say(_SENTENCES[errors.DatabaseUnavailable] if is_unreachable(error) else _UNFORESEEN)


def field_of(error: Exception) -> str | None:
    """The field that is wrong; none for an error that is about none."""
    return error.detail.partition(":")[0] if isinstance(error, errors.InvalidInput) else None
