"""Webhooks: how each endpoint fares, what was delivered with every try, and sending again, told beforehand how much."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlencode
from uuid import UUID

from starlette.responses import Response

from payment_service.console.languages import mark
from payment_service.console.lists import sellers
from payment_service.console.standing import Tone
from payment_service.console.web import HOME, Refused, Visit, go, moment_of
from payment_service.errors import InvalidInput
from payment_service.notifications.texts import ALMATY
from payment_service.payments.finding import find
from payment_service.webhooks.deliveries import Standing
from payment_service.webhooks.delivery import body_of
from payment_service.webhooks.endpoints import host_of
from payment_service.webhooks.models import EventDelivery

AT_ONCE: Final = 50
MOST_TOLD: Final = 10_000
_YEARS: Final = range(2020, 2100)
PAYMENTS: Final = 5
"""Of so many payments that a search means, deliveries are shown."""
STATES: Final[dict[str, tuple[Tone, str]]] = {
    "waiting": ("wait", mark("waits")),
    "delivered": ("good", mark("delivered")),
    "dead": ("bad", mark("given up")),
}
MESSAGE_STATES: Final[dict[str, tuple[Tone, str]]] = {
    "waiting": ("wait", mark("waits")),
    "failed": ("warn", mark("not sent yet")),
    "sent": ("good", mark("sent")),
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


async def webhooks(visit: Visit) -> Response:
    """Every endpoint that the person may see, and how it fares."""
    standings = await visit.services.delivery_record.standings(visit.me.caller)
    shops = {shop for one in standings for shop in one.endpoint.shops or ()}
    return visit.page(
        "webhooks.html",
        standings=[(one, host_of(one.endpoint), _success(one)) for one in standings],
        why_off=WHY_OFF,
        sellers=await sellers(visit, shops),
        notice=visit.query("done"),
        sent=visit.query("count"),
    )


async def deliveries(visit: Visit) -> Response:
    """Deliveries, newest first: of a payment, to an endpoint, in several states at once."""
    caller, record = visit.me.caller, visit.services.delivery_record
    wanted, cursor = visit.query("q"), visit.query("cursor")
    states = [one for one in visit.request.query_params.getlist("state") if one in STATES]
    endpoint = _uuid(visit.query("endpoint"))
    endpoints = await visit.services.endpoints.all(caller)
    page = await record.search(
        caller,
        endpoint_id=endpoint,
        states=states,
        subject_ids=await _subjects(visit, wanted) if wanted else None,
        limit=AT_ONCE,
        cursor=cursor or None,
    )
    hosts = {one.id: host_of(one) for one in endpoints}
    kept = [("q", wanted), *(("state", state) for state in states), ("endpoint", str(endpoint or ""))]
    return visit.page(
        "deliveries.html",
        lines=[_line(one, hosts) for one in page.rows],
        next_cursor=page.next_cursor,
        kept=urlencode([(name, value) for name, value in kept if value]),
        wanted=wanted,
        chosen=states,
        endpoint=endpoint,
        endpoints=[(one.id, hosts[one.id], one.description) for one in endpoints],
        states=STATES,
    )


async def delivery(visit: Visit) -> Response:
    """One delivery: what is sent, and each try with the code, the answer's beginning and how long it took."""
    found = await visit.services.delivery_record.get(visit.me.caller, visit.id())
    endpoint = await visit.services.endpoints.get(visit.me.caller, found.delivery.endpoint_id)
    return visit.page(
        "delivery.html",
        one=found.delivery,
        tries=found.tries[::-1],
        body=body_of(found.event),
        payment=_payment_of(found.event.type, found.event.subject_id, found.event.data),
        endpoint=endpoint,
        host=host_of(endpoint),
        states=STATES,
        asked_at=datetime.now(UTC).isoformat(),
        notice=visit.query("done"),
    )


async def replay_one(visit: Visit) -> Response:
    """Send an event once more, unless that was done since the page was made."""
    again = await visit.services.delivery_record.replay(
        visit.me.caller, visit.id(), besides_since=moment_of(visit.said("asked_at"))
    )
    return go(f"{HOME}/deliveries/{again.id}", done="replayed")


async def replay_many(visit: Visit) -> Response:
    """What failed since a time, or a period, once more: first how many that are, then the sending."""
    caller, record, endpoint_id = visit.me.caller, visit.services.delivery_record, visit.id()
    endpoint = await visit.services.endpoints.get(caller, endpoint_id)
    is_post = visit.request.method == "POST"
    said = visit.said if is_post else visit.query
    kind, problem, count = said("kind"), None, None
    since, until = said("since"), said("until")
    if kind:
        try:
            first, last = _time(since), _time(until) if kind == "period" else None
            if last is not None and last <= first:
                raise InvalidInput("period", "ends after it begins")
        except InvalidInput as error:
            problem = error
        else:
            if is_post:
                asked_at = moment_of(said("asked_at"))
                if last is None:
                    replayed = await record.replay_failed(caller, endpoint_id, first)
                else:
                    replayed = await record.replay_period(caller, endpoint_id, first, last, besides_since=asked_at)
                return go(f"{HOME}/webhooks", done="replayed", count=str(replayed))
            if last is None:
                count = await record.count_failed(caller, endpoint_id, first, at_most=MOST_TOLD + 1)
            else:
                count = await record.count_period(caller, endpoint_id, first, last, at_most=MOST_TOLD + 1)
    today = datetime.now(UTC).astimezone(ALMATY).replace(hour=0, minute=0)
    return visit.page(
        "webhook_replay.html",
        status=422 if problem else 200,
        endpoint=endpoint,
        host=host_of(endpoint),
        kind=kind or "failed",
        since=since or f"{today:%Y-%m-%dT%H:%M}",
        until=until or f"{datetime.now(UTC).astimezone(ALMATY):%Y-%m-%dT%H:%M}",
        found=count,
        most=MOST_TOLD,
        is_wrong=problem is not None,
        asked_at=datetime.now(UTC).isoformat(),
    )


async def messages(visit: Visit) -> Response:
    """Which chats get what, and of one chat what was sent to it."""
    caller, record = visit.me.caller, visit.services.message_record
    bound = await visit.services.bindings.all(caller)
    chat_id, not_sent = _uuid(visit.query("chat")), visit.query("show") == "not-sent"
    chats = {one.chat.id: one.chat for one in bound}
    chat = chats.get(chat_id) if chat_id else None
    if chat_id and chat is None:
        raise Refused(404)
    return visit.page(
        "messages.html",
        chats=[(chat, [one.binding for one in bound if one.chat.id == chat.id]) for chat in chats.values()],
        waiting=await record.waiting(chats),
        sellers=await sellers(visit, (one.binding.shop_id for one in bound)),
        chat=chat,
        not_sent=not_sent,
        told=[
            (one, _payment_of(one.event.type, one.event.subject_id, one.event.data))
            for one in (await record.of_chat(caller, chat.id, not_sent=not_sent) if chat else ())
        ],
        states=MESSAGE_STATES,
    )


def _success(one: Standing) -> int | None:
    """The share in percent of what ended that was delivered; none when nothing did."""
    ended = one.delivered + one.dead
    return round(100 * one.delivered / ended) if ended else None


def _line(one: EventDelivery, hosts: dict[UUID, str]) -> Line:
    return Line(one, hosts.get(one.endpoint_id, ""), _payment_of(one.type, one.subject_id, {}))


def _payment_of(kind: str, subject_id: str, data: dict[str, Any]) -> str | None:
    """Our id of the payment that an event is about, as far as it tells."""
    if kind.startswith("payment."):
        return subject_id
    payment = data.get("payment")
    return str(payment["id"]) if kind.startswith("refund.") and isinstance(payment, dict) and "id" in payment else None


async def _subjects(visit: Visit, wanted: str) -> list[str]:
    """What events may be about when somebody means these payments: they and their refunds."""
    found = await find(visit.services.database, visit.me.caller.shops, wanted, limit=PAYMENTS)
    subjects = [str(payment.id) for payment in found.payments]
    for payment in found.payments:
        subjects += [str(refund.id) for refund in await visit.services.refunds.of_payment(payment.id)]
    return subjects


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text) if text else None
    except ValueError as error:
        raise Refused(404) from error


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
