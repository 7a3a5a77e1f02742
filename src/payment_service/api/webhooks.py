"""Webhooks over HTTP: endpoints that events are delivered to, the deliveries, and delivering again."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StringConstraints

from payment_service.access.service import Caller
from payment_service.api import problems
from payment_service.api.dependencies import Admin, InServices
from payment_service.api.fields import Body, Changes, Cursor, Listed, Moment, ShopId, Text
from payment_service.api.responses import json_response
from payment_service.api.strict import StrictRoute
from payment_service.errors import DeliveryNotFound, InvalidInput, ShopNotConfigured, WebhookNotFound, WebhookOff
from payment_service.events.outbox import EventType
from payment_service.services import Services
from payment_service.webhooks.delivery import body_of
from payment_service.webhooks.models import WebhookEndpoint

router = APIRouter(prefix="/admin", tags=["webhooks"], route_class=StrictRoute)

EndpointId = Annotated[UUID, Path(description="The endpoint, as the list shows it.")]
DeliveryId = Annotated[UUID, Path(description="The delivery, as the list shows it.")]
Url = Annotated[Text, StringConstraints(min_length=1, max_length=2000)]
Description = Annotated[Text, StringConstraints(max_length=500)]
Events = Annotated[list[EventType], Field(min_length=1, max_length=50)]
Shops = Annotated[list[ShopId], Field(min_length=1, max_length=1000)]
Headers = Annotated[
    dict[Annotated[str, StringConstraints(max_length=100)], Annotated[str, StringConstraints(max_length=2000)]],
    Field(max_length=10),
]
_URL = Field(description="https:// and on the public Internet.", examples=["https://shop.example.kz/webhook"])
_EVENTS = Field(default=None, description="Which events; null means all.", examples=[["payment.paid"]])
_SHOPS = Field(default=None, description="Which shops; null means all shops, and events without a shop.")
_HEADERS = Field(description="Extra headers to send. Their values are never shown again.", examples=[{"X-Site": "a"}])
A_DAY_S = 86400


class NewEndpoint(Body):
    """Where to deliver events, and which."""

    url: Url = _URL
    description: Description = ""
    events: Events | None = _EVENTS
    shops: Shops | None = _SHOPS
    headers: Annotated[Headers, _HEADERS] = Field(default={})


class EndpointChange(Changes):
    """What to change; a field that is not given stays as it is."""

    null_says = frozenset({"events", "shops"})

    url: Url | None = Field(default=None, description="https:// and on the public Internet.")
    description: Description | None = None
    events: Events | None = _EVENTS
    shops: Shops | None = _SHOPS
    headers: Headers | None = Field(
        default=None, description="All headers. The masked value … leaves a header as it is."
    )
    is_active: StrictBool | None = Field(default=None, description="Switches it on and off.")


class EndpointAnswer(BaseModel):
    """An endpoint."""

    id: UUID
    url: str
    description: str
    events: list[str] | None = Field(description="Null: all.")
    shops: list[int] | None = Field(description="Null: all shops, and events without a shop.")
    headers: dict[str, str] = Field(description="Their values are hidden.")
    unreadable: list[Literal["secret", "headers"]] = Field(
        description="What of it ENCRYPTION_KEYS do not open. Nothing is delivered until it is given anew."
    )
    is_active: bool
    off_reason: Literal["person", "gone", "failing"] | None = Field(
        description="`person`: a person switched it off; `gone`: it answered 410; `failing`: it failed for days."
    )
    off_since: datetime | None
    failing_since: datetime | None = Field(description="Since the first failure after the last success.")
    previous_secret_until: datetime | None = Field(
        description="Deliveries are also signed with the previous secret until this time."
    )
    version: int
    created_at: datetime
    updated_at: datetime


class EndpointWithSecret(EndpointAnswer):
    """An endpoint whose secret was just made."""

    secret: str = Field(description="Shown only now. Receivers verify with it (Standard Webhooks).")


class Rotation(Body):
    """How to change a secret."""

    keep_old_s: int = Field(
        default=A_DAY_S,
        ge=0,
        le=30 * A_DAY_S,
        description="Deliveries are signed with both secrets for this many seconds.",
    )


class DeliveryAnswer(BaseModel):
    """One event on its way to one endpoint."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    event_id: UUID = Field(description="The `webhook-id` that the receiver sees.")
    endpoint_id: UUID
    type: str = Field(examples=["payment.paid"])
    subject_id: str = Field(description="The id of the payment, refund or shop that the event is about.")
    version: int = Field(description="Of what it tells.")
    shop_id: int | None
    replay_of: UUID | None = Field(description="The earlier delivery that this one repeats.")
    state: Literal["waiting", "delivered", "dead"]
    tries: int
    next_try_at: datetime | None
    created_at: datetime
    ended_at: datetime | None


class TryAnswer(BaseModel):
    """One call of the endpoint."""

    model_config = ConfigDict(from_attributes=True)

    number: int
    succeeded: bool
    status: int | None = Field(description="The HTTP status that was answered.")
    error: str | None = Field(description="Why there was no answer.")
    answer: str | None = Field(description="The beginning of the answer.")
    duration_ms: int
    created_at: datetime


class DeliveryDetailsAnswer(DeliveryAnswer):
    """A delivery with every try and what is sent."""

    attempts: list[TryAnswer]
    body: str = Field(description="What is sent.")


class DeliveryPage(Listed[DeliveryAnswer]):
    """Some deliveries, newest first."""


class Replay(Body):
    """What to deliver again: what failed since a time, or everything of a period."""

    failed_since: Moment | None = Field(default=None, description="All that failed since then.")
    since: Moment | None = Field(default=None, description="Every event from then on, delivered or not ...")
    until: Moment | None = Field(default=None, description="... and before then.")


class Replayed(BaseModel):
    """How much is delivered again."""

    replayed: int


# --- endpoints


@router.get("/webhooks", summary="All webhook endpoints", responses=problems.declared())
async def all_endpoints(services: InServices, caller: Admin) -> list[EndpointAnswer]:
    """Lists every endpoint, oldest first, including those that are off."""
    return [_shown(services, endpoint) for endpoint in await services.endpoints.all(caller)]


@router.post(
    "/webhooks",
    status_code=201,
    response_model=EndpointWithSecret,
    summary="Add a webhook endpoint",
    responses=problems.declared(ShopNotConfigured),
)
async def add(body: NewEndpoint, services: InServices, caller: Admin) -> Response:
    """Adds an endpoint.

    Events are delivered to it from now on. The answer holds the secret, which is not shown again.
    """
    await _check_shops(services, caller, body.shops)
    made = await services.endpoints.add(caller, body.model_dump())
    view = EndpointWithSecret(**services.endpoints.shown(made.endpoint), secret=made.secret)
    return json_response(view, 201, headers={"Location": f"/admin/webhooks/{made.endpoint.id}"})


@router.get("/webhooks/{id}", summary="One webhook endpoint", responses=problems.declared(WebhookNotFound))
async def one(id: EndpointId, services: InServices, caller: Admin) -> EndpointAnswer:
    """An endpoint and whether it is on."""
    return _shown(services, await services.endpoints.get(caller, id))


@router.put(
    "/webhooks/{id}",
    summary="Change a webhook endpoint",
    responses=problems.declared(WebhookNotFound, ShopNotConfigured),
)
async def change(id: EndpointId, body: EndpointChange, services: InServices, caller: Admin) -> EndpointAnswer:
    """Changes the given fields. Waiting deliveries are sent at once when the endpoint is switched on."""
    fields = body.given()
    await services.endpoints.get(caller, id)
    await _check_shops(services, caller, body.shops)
    return _shown(services, await services.endpoints.change(caller, id, fields))


@router.delete("/webhooks/{id}", summary="Switch a webhook endpoint off", responses=problems.declared(WebhookNotFound))
async def remove(id: EndpointId, services: InServices, caller: Admin) -> EndpointAnswer:
    """Switches the endpoint off. Nothing is deleted; PUT switches it on again."""
    return _shown(services, await services.endpoints.change(caller, id, {"is_active": False}))


@router.post(
    "/webhooks/{id}/rotate-secret",
    summary="Change a webhook endpoint's secret",
    responses=problems.declared(WebhookNotFound),
)
async def rotate_secret(id: EndpointId, body: Rotation, services: InServices, caller: Admin) -> EndpointWithSecret:
    """Makes a new secret. Deliveries are signed with both secrets for a while, so that the receiver can change."""
    made = await services.endpoints.rotate_secret(caller, id, keep_old_s=body.keep_old_s)
    return EndpointWithSecret(**services.endpoints.shown(made.endpoint), secret=made.secret)


@router.post(
    "/webhooks/{id}/test",
    status_code=202,
    summary="Send a webhook endpoint a test event",
    responses=problems.declared(WebhookNotFound),
)
async def send_test(id: EndpointId, services: InServices, caller: Admin) -> DeliveryAnswer:
    """Sends one `test` event, even when the endpoint is off.

    An endpoint that was switched off automatically is switched on when it accepts the event.
    """
    return DeliveryAnswer.model_validate(await services.deliveries.test(caller, id))


@router.post(
    "/webhooks/{id}/replay",
    status_code=202,
    summary="Deliver events to an endpoint again",
    responses=problems.declared(WebhookNotFound, WebhookOff),
)
async def replay_many(id: EndpointId, body: Replay, services: InServices, caller: Admin) -> Replayed:
    """Repeats what failed since a time, or every event of a period.

    Events from before the endpoint existed are included.
    """
    match body.failed_since, body.since, body.until:
        case datetime() as failed_since, None, None:
            replayed = await services.delivery_record.replay_failed(caller, id, failed_since)
        case None, datetime() as since, datetime() as until:
            replayed = await services.delivery_record.replay_period(caller, id, since, until)
        case _:
            raise InvalidInput("failed_since", "is given alone, or since and until are given together")
    return Replayed(replayed=replayed)


# --- deliveries


@router.get("/deliveries", summary="All deliveries", responses=problems.declared())
async def deliveries(
    services: InServices,
    caller: Admin,
    endpoint_id: UUID | None = None,
    state: Literal["waiting", "delivered", "dead"] | None = None,
    type: Annotated[EventType | None, Query()] = None,
    event_id: UUID | None = None,
    payment: Annotated[UUID | None, Query(description="Only of this payment and its refunds, by our id.")] = None,
    since: Annotated[Moment | None, Query()] = None,
    until: Annotated[Moment | None, Query()] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Cursor = None,
) -> DeliveryPage:
    """Lists deliveries, newest first. `dead` deliveries were given up and can be replayed."""
    page = await services.delivery_record.search(
        caller,
        subject_ids=None if payment is None else await services.subjects_of(payment),
        endpoint_id=endpoint_id,
        states=[state] if state else (),
        type=type,
        event_id=event_id,
        since=since,
        until=until,
        limit=limit,
        cursor=cursor,
    )
    return DeliveryPage(
        items=[DeliveryAnswer.model_validate(delivery) for delivery in page.rows], next_cursor=page.next_cursor
    )


@router.get("/deliveries/{id}", summary="One delivery with its tries", responses=problems.declared(DeliveryNotFound))
async def delivery(id: DeliveryId, services: InServices, caller: Admin) -> DeliveryDetailsAnswer:
    """Returns the body that is sent and the result of every try."""
    found = await services.delivery_record.get(caller, id)
    return DeliveryDetailsAnswer(
        **dict(DeliveryAnswer.model_validate(found.delivery)),
        attempts=[TryAnswer.model_validate(tried) for tried in found.tries],
        body=body_of(found.event),
    )


@router.post(
    "/deliveries/{id}/replay",
    status_code=202,
    summary="Deliver an event again",
    responses=problems.declared(DeliveryNotFound, WebhookOff),
)
async def replay(id: DeliveryId, services: InServices, caller: Admin) -> DeliveryAnswer:
    """Delivers the event again at once, with the same `webhook-id`. Returns the new delivery."""
    return DeliveryAnswer.model_validate(await services.delivery_record.replay(caller, id))


async def _check_shops(services: Services, caller: Caller, shops: list[int] | None) -> None:
    for shop_id in shops or ():
        await services.routing.config_of(caller, shop_id)


def _shown(services: Services, endpoint: WebhookEndpoint) -> EndpointAnswer:
    return EndpointAnswer(**services.endpoints.shown(endpoint))
