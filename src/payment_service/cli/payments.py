"""``payment-service payments``: tasks for people, and settling by hand what the provider cannot tell."""

import re
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from payment_service.access.service import FULL_ACCESS
from payment_service.characters import one_line
from payment_service.cli.output import AsJson, fail, fields_of, show
from payment_service.cli.running import with_services
from payment_service.money import Money
from payment_service.payments.lifecycle import State
from payment_service.payments.models import Payment
from payment_service.payments.settling import Settlement
from payment_service.refunds.models import Refund
from payment_service.refunds.settling import RefundSettlement

if TYPE_CHECKING:
    from payment_service.services import Services

app = typer.Typer(no_args_is_help=True)
Why = Annotated[str, typer.Option("--reason", help="The reason; kept in the record.")]
_PROVIDERS_ID = re.compile(r"[A-Za-z0-9_-]{1,50}")
Id = Annotated[UUID, typer.Argument(help="Our id, as 'tasks' shows it.")]


@app.command("tasks")
def list_tasks(*, as_json: AsJson = False) -> None:
    """List the tasks for people, oldest first: unknown payments and refunds, payments that have been open for too long.

    Look for the short code, which ends the message that the buyer saw, in the merchant cabinet of that BIN.
    """

    async def work(services: "Services") -> tuple[list[Payment], list[tuple[Refund, Payment]]]:
        return await services.settling.tasks(FULL_ACCESS), await services.refund_settling.tasks(FULL_ACCESS)

    payments, refunds = with_services(work)
    lines = [_line(payment, payment) for payment in payments]
    lines += [_line(refund, payment) for refund, payment in refunds]
    show(sorted(lines, key=lambda line: str(line["since"])), as_json=as_json, empty="No tasks.")


@app.command("settle")
def settle(
    payment_id: Id,
    *,
    paid: Annotated[bool, typer.Option("--paid", help="It was made, and it is paid.")] = False,
    pending: Annotated[bool, typer.Option("--pending", help="It was made, and it is still open.")] = False,
    failed: Annotated[bool, typer.Option("--failed", help="It was never made, or it failed.")] = False,
    external_id: Annotated[
        str | None, typer.Option(help="The provider's id of the payment, as the merchant cabinet shows it.")
    ] = None,
    reason: Why,
    as_json: AsJson = False,
) -> None:
    """Settle an unknown payment. Where the provider can be asked, a contradiction is refused."""
    found = [state for state, given in ((State.PAID, paid), (State.PENDING, pending), (State.FAILED, failed)) if given]
    if len(found) != 1:
        fail("Say one of --paid, --pending and --failed.")
    settlement = Settlement(state=found[0], reason=_checked(reason), external_id=_checked_id(external_id))
    payment = with_services(
        lambda services: services.settling.settle(FULL_ACCESS, payment_id, settlement), asks_provider=True
    )
    _show_payment(payment, as_json=as_json)


@app.command("undo-settle")
def undo_settle(payment_id: Id, *, reason: Why, as_json: AsJson = False) -> None:
    """Undo a wrong settlement of a payment: it is unknown again.

    Another person than the one who settled has to do it.
    """
    why = _checked(reason)
    payment = with_services(lambda services: services.settling.undo(FULL_ACCESS, payment_id, why))
    _show_payment(payment, as_json=as_json)


@app.command("settle-refund")
def settle_refund(
    refund_id: Id,
    *,
    succeeded: Annotated[bool, typer.Option("--succeeded", help="It was made.")] = False,
    failed: Annotated[bool, typer.Option("--failed", help="It was never made; its amount is released.")] = False,
    provider_refund_id: Annotated[str | None, typer.Option(help="The provider's id of the refund, if known.")] = None,
    reason: Why,
    as_json: AsJson = False,
) -> None:
    """Settle an unknown refund. The provider cannot be asked about refunds."""
    if succeeded == failed:
        fail("Say one of --succeeded and --failed.")
    found = RefundSettlement(
        succeeded=succeeded, reason=_checked(reason), provider_refund_id=_checked_id(provider_refund_id)
    )
    settled = with_services(lambda services: services.refund_settling.settle(FULL_ACCESS, refund_id, found))
    _show_refund(settled.refund, as_json=as_json)


@app.command("undo-settle-refund")
def undo_settle_refund(refund_id: Id, *, reason: Why, as_json: AsJson = False) -> None:
    """Undo a wrong settlement of a refund: it is unknown again.

    Another person than the one who settled has to do it.
    """
    why = _checked(reason)
    undone = with_services(lambda services: services.refund_settling.undo(FULL_ACCESS, refund_id, why))
    _show_refund(undone.refund, as_json=as_json)


def _show_payment(payment: Payment, *, as_json: bool) -> None:
    show([fields_of(payment, "id", "state", "status", "external_id")], as_json=as_json)


def _show_refund(refund: Refund, *, as_json: bool) -> None:
    line = {**fields_of(refund, "id", "state"), "amount": _tenge(refund.amount), "payment": refund.payment_id}
    show([line], as_json=as_json)


def _checked(reason: str) -> str:
    text = one_line(reason)
    if not 3 <= len(text) <= 500:
        fail("A reason is a sentence of up to 500 characters: who found what, and where.")
    return text


def _checked_id(text: str | None) -> str | None:
    if text is not None and not _PROVIDERS_ID.fullmatch(text):
        fail("An id of the provider is 1 to 50 letters, digits, dashes and underscores.")
    return text


def _line(what: Payment | Refund, payment: Payment) -> dict[str, Any]:
    return {
        "what": "refund" if isinstance(what, Refund) else "payment",
        **fields_of(what, "id", "state"),
        **fields_of(payment, "shop_id", "organization_bin"),
        "phone": f"•••{payment.phone_last4}" if payment.phone_last4 else None,
        "amount": _tenge(what.amount),
        **fields_of(payment, "short_code", "external_id", "order_id"),
        "why": what.error_code,
        "made_at": f"{what.created_at:%Y-%m-%d %H:%M:%S %Z}",
        "since": f"{what.moved_at:%Y-%m-%d %H:%M:%S %Z}",
    }


def _tenge(tiyn: int | None) -> str | None:
    return None if tiyn is None else str(Money(tiyn))
