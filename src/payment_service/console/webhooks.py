"""Webhooks: the state of each endpoint, what was delivered with every try, and sending again, after saying how much.

Administrators add endpoints and switch them on and off. A secret is shown by the answer that made it and by nothing
else.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlencode
from uuid import UUID

from starlette.responses import Response

from payment_service.access.people import Right
from payment_service.almaty import ALMATY, midnight, today
from payment_service.console.form_fields import chosen_shops, form_id, shop_numbers
from payment_service.console.lists import sellers
from payment_service.console.payment_status import Tone
from payment_service.console.problems import field_of
from payment_service.console.web import (
    HOME,
    PageContext,
    Refused,
    moment_of,
    reason_of,
    redirect,
    require_proof,
    uncached_page,
    uuid_of,
)
from payment_service.errors import InvalidInput, ServiceError
from payment_service.events.outbox import SUBSCRIBABLE
from payment_service.identifiers import new_id
from payment_service.languages import mark
from payment_service.payments.search import find
from payment_service.postgres.visibility import ALL_SHOPS
from payment_service.reconciliation.turnover import names_of_shops
from payment_service.webhooks.delivery import body_of
from payment_service.webhooks.endpoints import host_of
from payment_service.webhooks.models import EventDelivery, WebhookEndpoint
from payment_service.webhooks.record import EndpointHealth

AT_ONCE: Final = 50
MAX_COUNTED: Final = 10_000
_LONGEST_URL: Final = 2000
_LONGEST_DESCRIPTION: Final = 500
_YEARS: Final = range(2020, 2100)
PAYMENTS: Final = 5
"""Of so many payments that a search means, deliveries are shown."""
STATES: Final[dict[str, tuple[Tone, str]]] = {
    "waiting": ("wait", mark("waits")),
    "delivered": ("good", mark("delivered")),
    "dead": ("bad", mark("given up")),
}
WHY_OFF: Final = {
    "person": mark("A person switched it off."),
    "gone": mark("It answered 410: gone for good."),
    "failing": mark("It failed for days, so it was switched off."),
}


@dataclass(frozen=True, slots=True)
class Line:
    """A delivery in a list, with the payment that it is about, where its row tells."""

    delivery: EventDelivery
    host: str
    payment: str | None


async def webhooks(context: PageContext) -> Response:
    """Every endpoint that the person may see, and its state."""
    endpoints = await context.services.delivery_record.endpoint_health(context.me.caller)
    shops = {shop for one in endpoints for shop in one.endpoint.shops or ()}
    return context.page(
        "webhooks.html",
        endpoints=[(one, host_of(one.endpoint), _success(one)) for one in endpoints],
        why_off=WHY_OFF,
        sellers=await sellers(context, shops),
        notice=context.query("done"),
        sent=context.query("count"),
        may_administer=context.me.may(Right.ADMINISTER),
    )


async def new(context: PageContext) -> Response:
    """The form for an endpoint, and what it sends; then its secret, once."""
    if not context.is_sent:
        return await _form(context)
    once = form_id(context)
    try:
        fields = await _wanted(context)
        await require_proof(context)
        made = await context.services.endpoints.add(context.me.caller, fields, once=once)
    except ServiceError as error:
        if field_of(error) == "once":
            return redirect(f"{HOME}/webhooks", done="made-before")
        return await _form(context, error)
    return uncached_page(context, "webhook_made.html", host=host_of(made.endpoint), secret=made.secret)


async def _form(context: PageContext, error: ServiceError | None = None) -> Response:
    return context.form_page(
        "webhook_new.html",
        error,
        once=context.form_value("once") or str(new_id()),
        events=SUBSCRIBABLE,
        chosen=_events(context),
        shops=await names_of_shops(context.services.database),
        chosen_shops=shop_numbers(context),
        given=context.form,
    )


async def switch(context: PageContext) -> Response:
    """Switch an endpoint on or off, as the form says; it stays as it is when it is so already."""
    endpoint = await context.services.endpoints.get(context.me.caller, context.id())
    if not context.is_sent:
        return _switch_form(context, endpoint)
    on = {"on": True, "off": False}.get(context.form_value("to"))
    if on is None:
        raise Refused(400)
    try:
        reason = None if on else reason_of(context, "why_off")
        await require_proof(context)
        if endpoint.is_active != on:
            changed = {"is_active": on}
            await context.services.endpoints.change(context.me.caller, endpoint.id, changed, reason=reason)
    except ServiceError as error:
        return _switch_form(context, endpoint, error)
    return redirect(f"{HOME}/webhooks", done="on" if on else "off")


def _switch_form(context: PageContext, endpoint: WebhookEndpoint, error: ServiceError | None = None) -> Response:
    reason = context.form_value("reason")
    host = host_of(endpoint)
    return context.form_page("webhook_switch.html", error, endpoint=endpoint, host=host, why_off=WHY_OFF, reason=reason)


async def deliveries(context: PageContext) -> Response:
    """Deliveries, newest first: of a payment, to an endpoint, in several states at once."""
    caller, record = context.me.caller, context.services.delivery_record
    wanted, cursor = context.query("q"), context.query("cursor")
    states = [one for one in context.request.query_params.getlist("state") if one in STATES]
    endpoint = uuid_of(context.query("endpoint")) if context.query("endpoint") else None
    endpoints = await context.services.endpoints.all(caller)
    page = await record.search(
        caller,
        endpoint_id=endpoint,
        states=states,
        subject_ids=await _subjects(context, wanted) if wanted else None,
        limit=AT_ONCE,
        cursor=cursor or None,
    )
    hosts = {one.id: host_of(one) for one in endpoints}
    kept = [("q", wanted), *(("state", state) for state in states), ("endpoint", str(endpoint or ""))]
    return context.page(
        "deliveries.html",
        lines=[
            Line(one, hosts.get(one.endpoint_id, ""), payment_of(one.type, one.subject_id, {})) for one in page.rows
        ],
        next_cursor=page.next_cursor,
        kept=urlencode([(name, value) for name, value in kept if value]),
        wanted=wanted,
        chosen=states,
        endpoint=endpoint,
        endpoints=[(one.id, hosts[one.id], one.description) for one in endpoints],
        states=STATES,
    )


async def delivery(context: PageContext) -> Response:
    """One delivery: what is sent, and each try with the code, the answer's beginning and how long it took."""
    found = await context.services.delivery_record.get(context.me.caller, context.id())
    endpoint = await context.services.endpoints.get(context.me.caller, found.delivery.endpoint_id)
    return context.page(
        "delivery.html",
        one=found.delivery,
        tries=found.tries[::-1],
        body=body_of(found.event),
        payment=payment_of(found.event.type, found.event.subject_id, found.event.data),
        endpoint=endpoint,
        host=host_of(endpoint),
        states=STATES,
        asked_at=datetime.now(UTC).isoformat(),
        notice=context.query("done"),
    )


async def replay_one(context: PageContext) -> Response:
    """Send an event again, unless that was done since the page was made."""
    again = await context.services.delivery_record.replay(
        context.me.caller, context.id(), skip_since=moment_of(context.form_value("asked_at"))
    )
    return redirect(f"{HOME}/deliveries/{again.id}", done="replayed")


async def replay_many(context: PageContext) -> Response:
    """Send again what failed since a time, or a period: first the number of deliveries, then the sending."""
    endpoint = await context.services.endpoints.get(context.me.caller, context.id())
    value = context.form_value if context.is_sent else context.query
    kind, since, until = value("kind"), value("since"), value("until")
    period, problem, count = None, None, None
    try:
        period = _period(since, until if kind == "period" else None) if kind else None
    except InvalidInput as error:
        problem = error
    if period is not None and context.is_sent:
        replayed = await _replay(context, endpoint.id, *period, asked_at=moment_of(value("asked_at")))
        return redirect(f"{HOME}/webhooks", done="replayed", count=str(replayed))
    if period is not None:
        count = await _count(context, endpoint.id, *period)
    return context.page(
        "webhook_replay.html",
        status=422 if problem else 200,
        endpoint=endpoint,
        host=host_of(endpoint),
        kind=kind or "failed",
        since=since or f"{midnight(today()):%Y-%m-%dT%H:%M}",
        until=until or f"{datetime.now(ALMATY):%Y-%m-%dT%H:%M}",
        found=count,
        most=MAX_COUNTED,
        is_wrong=problem is not None,
        asked_at=datetime.now(UTC).isoformat(),
    )


async def _wanted(context: PageContext) -> dict[str, Any]:
    """What an endpoint is to be, as the form says.

    Raises:
        InvalidInput: for a field that is wrong.
    """
    url, description, events = context.form_value("url"), context.form_value("description"), _events(context)
    if len(url) > _LONGEST_URL:
        raise InvalidInput("url", "is too long")
    if len(description) > _LONGEST_DESCRIPTION:
        raise InvalidInput("description", "is too long")
    if context.form_value("which") != ("some" if events else "all"):
        raise InvalidInput("events", "are all or some")
    shops = await chosen_shops(context)
    named = None if shops is ALL_SHOPS else sorted(shops)
    return {"url": url, "description": description, "events": events or None, "shops": named}


def _events(context: PageContext) -> list[str]:
    """The events of the form: each has a field of its own."""
    return [kind for kind in SUBSCRIBABLE if f"event-{kind}" in context.form]


def _success(one: EndpointHealth) -> int | None:
    """The share in percent of what ended that was delivered; none when nothing did."""
    ended = one.delivered + one.dead
    return round(100 * one.delivered / ended) if ended else None


def payment_of(kind: str, subject_id: str, data: dict[str, Any]) -> str | None:
    """Our id of the payment that an event is about, as far as it tells."""
    if kind.startswith("payment."):
        return subject_id
    payment = data.get("payment")
    return str(payment["id"]) if kind.startswith("refund.") and isinstance(payment, dict) and "id" in payment else None


async def _subjects(context: PageContext, wanted: str) -> list[str]:
    """What events may be about when somebody means these payments: they and their refunds."""
    found = await find(context.services.database, context.me.caller.shops, wanted, limit=PAYMENTS)
    return [subject for payment in found.payments for subject in await context.services.subjects_of(payment.id)]


async def _replay(
    context: PageContext, endpoint_id: UUID, since: datetime, until: datetime | None, *, asked_at: datetime
) -> int:
    """Send again what failed since then, or all of a period but what was sent again since it was asked."""
    caller, record = context.me.caller, context.services.delivery_record
    if until is None:
        return await record.replay_failed(caller, endpoint_id, since)
    return await record.replay_period(caller, endpoint_id, since, until, skip_since=asked_at)


async def _count(context: PageContext, endpoint_id: UUID, since: datetime, until: datetime | None) -> int:
    """How many that would be, up to one more than are shown."""
    caller, record, at_most = context.me.caller, context.services.delivery_record, MAX_COUNTED + 1
    if until is None:
        return await record.count_failed(caller, endpoint_id, since, at_most=at_most)
    return await record.count_period(caller, endpoint_id, since, until, at_most=at_most)


def _period(since: str, until: str | None) -> tuple[datetime, datetime | None]:
    """The times of the form; of what failed there is no end.

    Raises:
        InvalidInput: for a time that is none, and for a period that ends before it begins.
    """
    first, last = _time(since), None if until is None else _time(until)
    if last is not None and last <= first:
        raise InvalidInput("period", "ends after it begins")
    return first, last


def _time(text: str) -> datetime:
    """A time of a form, by the clock of Almaty.

    Raises:
        InvalidInput: for what is none.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidInput("time", "is none") from error
    if moment.year not in _YEARS:
        raise InvalidInput("time", "is none")
    return moment.replace(tzinfo=ALMATY)
