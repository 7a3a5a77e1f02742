"""Changing where a seller's money goes: the form, and what a second administrator confirms or refuses.

The form carries the version of the route that its page showed. A form that is sent twice, from an old page, or after
another change has an old version, and changes nothing. A device token that was entered is shown on no page again;
whoever confirms compares the beginnings of both tokens.
"""

from collections.abc import Mapping
from typing import Any, Final

from starlette.responses import Response

from payment_service.console.sellers import SELLERS, Seller, read
from payment_service.console.web import PageContext, reason_of, redirect, require_proof
from payment_service.errors import InvalidInput, RouteChangeNotFound, ServiceError
from payment_service.routing.changes import Proposal
from payment_service.routing.tokens import Token, masked_token

_LONGEST: Final = {"name": 200, "city": 100, "description": 500}
_TEXTS: Final = tuple(_LONGEST)


async def change(context: PageContext) -> Response:
    """The form, beside the current route, and its submission."""
    seller = await read(context)
    home, routing = f"{SELLERS}/{seller.row.shop_id}", context.services.routing
    if not context.is_sent:
        return await _form(context, seller)
    if context.form_value("seen") != str(seller.row.version):
        return redirect(home, done="seen-before")
    try:
        wanted, reason = _wanted(context), reason_of(context, "why")
        config = await routing.config_of(context.me.caller, seller.row.shop_id)
        if not any(value != _today(config.row, config.device_token)[name] for name, value in wanted.items()):
            return redirect(home, done="same")
        await require_proof(context)
        is_proposed = routing.goes_elsewhere(config.row, wanted) and await routing.needs_two()
        if is_proposed:
            await context.services.route_changes.propose(
                context.me.caller,
                context.me.person.id,
                seller.row.shop_id,
                wanted,
                version=seller.row.version,
                reason=reason,
            )
        else:
            seen = {"version": seller.row.version}
            await routing.update(context.me.caller, seller.row.shop_id, wanted, seen=seen, reason=reason)
    except ServiceError as error:
        return await _form(context, seller, error)
    return redirect(home, done="proposed" if is_proposed else "changed")


async def decide(context: PageContext) -> Response:
    """A proposed change beside the current route, and the decision of the second administrator."""
    seller, proposal = await _proposal(context)
    if not context.is_sent:
        return await _decision_form(context, seller, proposal)
    decision, changes = context.form_value("decision"), context.services.route_changes
    try:
        if decision not in {"confirm", "refuse"}:
            raise InvalidInput("decision", "is none")
        await require_proof(context)
        act = changes.confirm if decision == "confirm" else changes.refuse
        await act(context.me.caller, context.me.person.id, proposal.change.id)
    except ServiceError as error:
        return await _decision_form(context, seller, proposal, error)
    done = "confirmed" if decision == "confirm" else "refused"
    return redirect(f"{SELLERS}/{seller.row.shop_id}", done=done)


async def _decision_form(
    context: PageContext, seller: Seller, proposal: Proposal, error: ServiceError | None = None
) -> Response:
    routing, proposed = context.services.routing, proposal.change
    known = await routing.configs(context.me.caller, organization_bin=proposed.organization_bin)
    return context.form_page(
        "route_decision.html",
        error,
        seller=seller,
        proposal=proposal,
        token_today=masked_token(routing.opened(seller.row).device_token),
        is_own=proposed.proposed_by == context.me.person.id,
        is_open=seller.waiting is not None and seller.waiting.change.id == proposed.id,
        same_bin=[other.row for other in known if other.row.shop_id != seller.row.shop_id],
    )


async def _proposal(context: PageContext) -> tuple[Seller, Proposal]:
    seller, wanted = await read(context), context.id("change_id")
    found = await context.services.route_changes.of_shop(context.me.caller, seller.row.shop_id)
    proposal = next((one for one in found if one.change.id == wanted), None)
    if proposal is None:
        raise RouteChangeNotFound(wanted)
    return seller, proposal


def _wanted(context: PageContext) -> dict[str, Any]:
    """The fields of the routing as the form has them. A token that is left empty stays as it is.

    Raises:
        InvalidInput: for a text that is too long.
    """
    organization_bin = context.form_value("organization_bin").replace(" ", "")
    wanted: dict[str, Any] = {
        "organization_bin": organization_bin,
        "is_active": context.form_value("is_active") == "yes",
    }
    for name, longest in _LONGEST.items():
        if len(context.form_value(name)) > longest:
            raise InvalidInput(name, f"is longer than {longest} characters")
        wanted[name] = context.form_value(name)
    if context.form_value("remove_token") == "yes":
        wanted["device_token"] = None
    elif token := context.form_value("device_token"):
        wanted["device_token"] = token
    return wanted


def _today(row: Any, device_token: Token | None) -> Mapping[str, Any]:
    return {
        "organization_bin": row.organization_bin,
        "is_active": row.is_active,
        "device_token": device_token,
        **{name: getattr(row, name) for name in _TEXTS},
    }


async def _form(context: PageContext, seller: Seller, error: ServiceError | None = None) -> Response:
    row = seller.row
    given = context.form or {
        "organization_bin": row.organization_bin,
        "is_active": "yes" if row.is_active else "",
        **{name: getattr(row, name) for name in _TEXTS},
    }
    return context.form_page(
        "route.html",
        error,
        seller=seller,
        given=given,
        needs_two=await context.services.routing.needs_two(),
    )
