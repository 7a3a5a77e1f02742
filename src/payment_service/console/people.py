"""Accounts of people, for administrators: adding, changing, links, signing out, disabling.

The form that changes an account carries the rights that its page showed: one from before another change does not give
back what somebody has taken.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from starlette.responses import Response

from payment_service.access.models import Person
from payment_service.access.people import Role
from payment_service.access.views import PersonView
from payment_service.console.form_fields import shop_numbers
from payment_service.console.lists import sellers
from payment_service.console.problems import field_of
from payment_service.console.web import (
    HOME,
    PageContext,
    Refused,
    money_of,
    number_in_path,
    redirect,
    require_proof,
    uncached_page,
)
from payment_service.errors import InvalidInput, ServiceError
from payment_service.languages import mark
from payment_service.money import Money
from payment_service.notifications.links import MadeLink
from payment_service.postgres.visibility import ALL_SHOPS, Shops
from payment_service.reconciliation.turnover import names_of_shops

ROLES: Final = {
    Role.FLORIST: mark("florist: own shops, refunds"),
    Role.OPERATOR: mark("operator: refunds, settles, sends webhooks again"),
    Role.ACCOUNTANT: mark("accountant: reads, takes CSV"),
    Role.ADMIN: mark("administrator: everything"),
}
WORDS: Final = {
    Role.FLORIST: mark("florist"),
    Role.OPERATOR: mark("operator"),
    Role.ACCOUNTANT: mark("accountant"),
    Role.ADMIN: mark("administrator"),
}


async def people(context: PageContext) -> Response:
    """Every account, those that may sign in first."""
    views = [PersonView.of(row) for row in await context.services.people.all()]
    views.sort(key=lambda one: (one.disabled_at is not None, one.name))
    return context.page(
        "people.html",
        people=views,
        words=WORDS,
        sellers=await sellers(context, (shop for one in views if one.shops != "all" for shop in one.shops)),
    )


async def new(context: PageContext) -> Response:
    """The form for an account, and its submission, which shows or sends the link that sets the password."""
    if not context.is_sent:
        return await _form(context, None)
    try:
        role, shops, limit = _role(context), _shops(context), _limit(context)
        await require_proof(context)
        await _check_alone(context, role)
        email, name = context.form_value("email"), context.form_value("name")
        person = await context.services.people.add(email, name, role, shops, refund_limit=limit)
    except ServiceError as error:
        is_name = field_of(error) == "name"
        return await _form(context, None, InvalidInput("person_name", "is too long, or none") if is_name else error)
    return await (_sent if context.form_value("send") else _linked)(context, person)


async def one(context: PageContext) -> Response:
    """One account, and the actions on it."""
    person_id = number_in_path(context)
    person = next((row for row in await context.services.people.all() if row.id == person_id), None)
    if person is None:
        raise Refused(404)
    if not context.is_sent:
        return await _form(context, person)
    act = _ACTS.get(context.form_value("do"))
    if act is None or person.disabled_at is not None:
        raise Refused(400)
    is_link, is_me = act in {_linked, _sent}, person.id == context.me.person.id
    try:
        if is_me and not is_link:
            raise InvalidInput("own_account", "is changed by somebody else")
        await require_proof(context)
        if is_link and not is_me:
            await _check_alone(context, person.role)
        return await act(context, person)
    except ServiceError as error:
        return await _form(context, person, error)


async def _change(context: PageContext, person: Person) -> Response:
    if person.role != Role.ADMIN:
        await _check_alone(context, _role(context))
    if context.form_value("seen") != _rights(person):
        return redirect(f"{HOME}/people/{person.id}", done="changed-before")
    await context.services.people.change(
        person.id, role=_role(context), shops=_shops(context), refund_limit=_limit(context)
    )
    return redirect(f"{HOME}/people/{person.id}", done="changed")


def _rights(person: Person) -> str:
    """What a change replaces."""
    return f"{person.role} {person.shops} {person.refund_limit}"


async def _sign_out(context: PageContext, person: Person) -> Response:
    await context.services.people.sign_out(person.id)
    return redirect(f"{HOME}/people/{person.id}", done="signed-out")


async def _disable(context: PageContext, person: Person) -> Response:
    await context.services.people.disable(person.id)
    return redirect(f"{HOME}/people/{person.id}", done="disabled")


async def _linked(context: PageContext, person: Person) -> Response:
    """Make a link and show it."""
    return _link_page(context, person, await context.services.links.make(person.id, site=_site(context)))


async def _sent(context: PageContext, person: Person) -> Response:
    """Make a link and send it. One that could not be sent is shown."""
    if not context.services.links.can_be_sent:
        return await _linked(context, person)
    return _link_page(context, person, await context.services.links.send(person, context.language))


def _link_page(context: PageContext, person: Person, made: MadeLink | None) -> Response:
    """The result of a link, and the link itself unless it was sent: in the answer, since no URL may hold it."""
    if made is None:
        raise Refused(404)  # the account ended meanwhile
    return uncached_page(context, "person_link.html", person=PersonView.of(person), made=made)


_ACTS: Final[Mapping[str, Callable[[PageContext, Person], Awaitable[Response]]]] = {
    "change": _change,
    "link": _linked,
    "send-link": _sent,
    "sign-out": _sign_out,
    "disable": _disable,
}


async def _check_alone(context: PageContext, role: str) -> None:
    """Where routes need two administrators, no single one makes another, or a link for the account of one.

    Raises:
        InvalidInput: for the role of an administrator there.
    """
    if role == Role.ADMIN and await context.services.routing.needs_two():
        raise InvalidInput("administrator", "is made by the command line")


async def _form(context: PageContext, person: Person | None, error: ServiceError | None = None) -> Response:
    view = PersonView.of(person) if person else None
    given: dict[str, Any] = {"email": "", "name": "", "role": Role.OPERATOR, "shops": [], "limit": "", "send": True}
    if view:
        shops = [] if view.shops == "all" else view.shops
        given |= {"role": view.role, "shops": shops, "limit": view.refund_limit or ""}
    if context.is_sent and context.form_value("do") in {"", "change"}:
        given |= {name: context.form_value(name) for name in ("email", "name", "role", "limit")}
        given |= {"shops": shop_numbers(context), "send": bool(context.form_value("send"))}
    return context.form_page(
        "person.html",
        error,
        person=view,
        seen=_rights(person) if person else "",
        given=given,
        roles=ROLES,
        words=WORDS,
        shops=await names_of_shops(context.services.database),
        can_send=context.services.links.can_be_sent,
        is_me=person is not None and person.id == context.me.person.id,
        notice=context.query("done"),
    )


def _site(context: PageContext) -> str:
    url = context.request.url
    return f"{url.scheme}://{url.netloc}"


def _role(context: PageContext) -> str:
    role = context.form_value("role")
    if role not in set(Role):
        raise InvalidInput("role", "is none")
    return role


def _shops(context: PageContext) -> Shops:
    """The chosen shops; without any, all of them.

    Raises:
        InvalidInput: for a florist without any.
    """
    chosen = frozenset(shop_numbers(context))
    if context.form_value("role") == Role.FLORIST and not chosen:
        raise InvalidInput("shops", "are named")
    return chosen or ALL_SHOPS


def _limit(context: PageContext) -> Money | None:
    return money_of(context, "limit") if context.form_value("limit").replace(" ", "") else None
