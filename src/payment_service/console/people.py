"""Accounts of people, for administrators: adding, changing, links, signing out, disabling."""

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
    Refused,
    Visit,
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


async def people(visit: Visit) -> Response:
    """Every account, those that may sign in first."""
    views = [PersonView.of(row) for row in await visit.services.people.all()]
    views.sort(key=lambda one: (one.disabled_at is not None, one.name))
    return visit.page(
        "people.html",
        people=views,
        words=WORDS,
        sellers=await sellers(visit, (shop for one in views if one.shops != "all" for shop in one.shops)),
    )


async def new(visit: Visit) -> Response:
    """The form for an account, and its submission, which shows or sends the link that sets the password."""
    if not visit.is_sent:
        return await _form(visit, None)
    try:
        role, shops, limit = _role(visit), _shops(visit), _limit(visit)
        await require_proof(visit)
        await _check_alone(visit, role)
        email, name = visit.form_value("email"), visit.form_value("name")
        person = await visit.services.people.add(email, name, role, shops, refund_limit=limit)
    except ServiceError as error:
        is_name = field_of(error) == "name"
        return await _form(visit, None, InvalidInput("person_name", "is too long, or none") if is_name else error)
    return await (_sent if visit.form_value("send") else _linked)(visit, person)


async def one(visit: Visit) -> Response:
    """One account, and the actions on it."""
    person_id = number_in_path(visit)
    person = next((row for row in await visit.services.people.all() if row.id == person_id), None)
    if person is None:
        raise Refused(404)
    if not visit.is_sent:
        return await _form(visit, person)
    act = _ACTS.get(visit.form_value("do"))
    if act is None or person.disabled_at is not None:
        raise Refused(400)
    is_link, is_me = act in {_linked, _sent}, person.id == visit.me.person.id
    try:
        if is_me and not is_link:
            raise InvalidInput("own_account", "is changed by somebody else")
        await require_proof(visit)
        if is_link and not is_me:
            await _check_alone(visit, person.role)
        return await act(visit, person)
    except ServiceError as error:
        return await _form(visit, person, error)


async def _change(visit: Visit, person: Person) -> Response:
    if person.role != Role.ADMIN:
        await _check_alone(visit, _role(visit))
    await visit.services.people.change(person.id, role=_role(visit), shops=_shops(visit), refund_limit=_limit(visit))
    return redirect(f"{HOME}/people/{person.id}", done="changed")


async def _sign_out(visit: Visit, person: Person) -> Response:
    await visit.services.people.sign_out(person.id)
    return redirect(f"{HOME}/people/{person.id}", done="signed-out")


async def _disable(visit: Visit, person: Person) -> Response:
    await visit.services.people.disable(person.id)
    return redirect(f"{HOME}/people/{person.id}", done="disabled")


async def _linked(visit: Visit, person: Person) -> Response:
    """Make a link and show it."""
    return _link_page(visit, person, await visit.services.links.make(person.id, site=_site(visit)))


async def _sent(visit: Visit, person: Person) -> Response:
    """Make a link and send it. One that could not be sent is shown."""
    if not visit.services.links.can_be_sent:
        return await _linked(visit, person)
    return _link_page(visit, person, await visit.services.links.send(person, visit.language))


def _link_page(visit: Visit, person: Person, made: MadeLink | None) -> Response:
    """The result of a link, and the link itself unless it was sent: in the answer, since no URL may hold it."""
    if made is None:
        raise Refused(404)  # the account ended meanwhile
    return uncached_page(visit, "person_link.html", person=PersonView.of(person), made=made)


_ACTS: Final[Mapping[str, Callable[[Visit, Person], Awaitable[Response]]]] = {
    "change": _change,
    "link": _linked,
    "send-link": _sent,
    "sign-out": _sign_out,
    "disable": _disable,
}


async def _check_alone(visit: Visit, role: str) -> None:
    """Where routes need two administrators, no single one makes another, or a link for the account of one.

    Raises:
        InvalidInput: for the role of an administrator there.
    """
    if role == Role.ADMIN and await visit.services.routing.needs_two():
        raise InvalidInput("administrator", "is made by the command line")


async def _form(visit: Visit, person: Person | None, error: ServiceError | None = None) -> Response:
    view = PersonView.of(person) if person else None
    given: dict[str, Any] = {"email": "", "name": "", "role": Role.OPERATOR, "shops": [], "limit": "", "send": True}
    if view:
        shops = [] if view.shops == "all" else view.shops
        given |= {"role": view.role, "shops": shops, "limit": view.refund_limit or ""}
    if visit.is_sent and visit.form_value("do") in {"", "change"}:
        given |= {name: visit.form_value(name) for name in ("email", "name", "role", "limit")}
        given |= {"shops": shop_numbers(visit), "send": bool(visit.form_value("send"))}
    return visit.form_page(
        "person.html",
        error,
        person=view,
        given=given,
        roles=ROLES,
        words=WORDS,
        shops=await names_of_shops(visit.services.database),
        can_send=visit.services.links.can_be_sent,
        is_me=person is not None and person.id == visit.me.person.id,
        notice=visit.query("done"),
    )


def _site(visit: Visit) -> str:
    url = visit.request.url
    return f"{url.scheme}://{url.netloc}"


def _role(visit: Visit) -> str:
    role = visit.form_value("role")
    if role not in set(Role):
        raise InvalidInput("role", "is none")
    return role


def _shops(visit: Visit) -> Shops:
    """The chosen shops; without any, all of them.

    Raises:
        InvalidInput: for a florist without any.
    """
    chosen = frozenset(shop_numbers(visit))
    if visit.form_value("role") == Role.FLORIST and not chosen:
        raise InvalidInput("shops", "are named")
    return chosen or ALL_SHOPS


def _limit(visit: Visit) -> Money | None:
    return money_of(visit, "limit") if visit.form_value("limit").replace(" ", "") else None
