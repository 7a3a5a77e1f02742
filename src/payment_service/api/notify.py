"""Which chats are notified of which events, over HTTP."""

from datetime import datetime
from typing import Annotated, Literal, Self
from uuid import UUID

from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel, Field, StrictBool, StringConstraints, WithJsonSchema

from payment_service.api import problems
from payment_service.api.dependencies import Admin, InServices
from payment_service.api.fields import Body, Changes, ShopId, Text
from payment_service.api.responses import json_response
from payment_service.api.strict import StrictRoute
from payment_service.errors import BindingExists, BindingNotFound, MessageNotSent, PaymentNotFound, ShopNotConfigured
from payment_service.events.outbox import SUBSCRIBABLE, EventType
from payment_service.languages import Language
from payment_service.notifications.bindings import BindingRequest, BoundChat
from payment_service.notifications.models import MessageState
from payment_service.notifications.record import MessageDetails

router = APIRouter(tags=["admin"], route_class=StrictRoute)

Description = Annotated[Text, StringConstraints(max_length=200)]
NotifiableEvent = Annotated[EventType, WithJsonSchema({"type": "string", "enum": list(SUBSCRIBABLE)})]
Events = Annotated[list[NotifiableEvent], Field(min_length=1, examples=[["payment.paid"]])]
BindingId = Annotated[UUID, Path(description="The binding, as the list shows it.")]


class MessageAnswer(BaseModel):
    """One event as a message to one chat."""

    event_id: UUID
    type: str = Field(examples=["payment.paid"])
    channel: str
    address: str
    state: MessageState = Field(description="`failed`: it will be tried again; `dead`: it was given up.")
    tries: int
    reason: str | None = Field(description="The result of the last try, if the message did not arrive.")
    created_at: datetime
    sent_at: datetime | None

    @classmethod
    def of(cls, details: MessageDetails) -> Self:
        """The view of a message."""
        message, event, chat = details.message, details.event, details.chat
        return cls(
            event_id=event.id,
            type=event.type,
            channel=chat.channel,
            address=chat.address,
            state=MessageState(message.state),
            tries=message.tries,
            reason=message.reason,
            created_at=message.created_at,
            sent_at=message.sent_at,
        )


class NewBinding(Body):
    """A chat and its events."""

    channel: Literal["telegram", "email"]
    address: str = Field(
        min_length=1,
        max_length=254,
        description="A Telegram chat's number or a channel's @name; an e-mail address.",
        examples=["-1001234567890"],
    )
    shop_id: ShopId | None = Field(default=None, description="The shop; of all shops when not given.")
    events: Events
    language: Language = Language.RU
    description: Description = ""


class BindingChange(Changes):
    """What to change; a field that is not given stays as it is. A chat or a shop is never changed: bind another one."""

    events: Events | None = None
    language: Language | None = None
    description: Description | None = None
    is_active: StrictBool | None = None


class BindingAnswer(BaseModel):
    """A chat and its events."""

    id: UUID
    channel: str
    address: str
    shop_id: int | None = Field(description="Null: of all shops.")
    events: list[str]
    language: str
    description: str
    is_active: bool
    disabled_at: datetime | None = Field(
        description="When the chat became unreachable. A test message that arrives enables it again."
    )
    disabled_reason: str | None = Field(examples=["telegram: 403 Forbidden: bot was blocked by the user"])
    created_by: str
    created_at: datetime
    updated_at: datetime


@router.get("/admin/messages", summary="Messages about a payment", responses=problems.declared(PaymentNotFound))
async def messages(
    services: InServices, caller: Admin, payment: Annotated[UUID, Query(description="Our id of the payment.")]
) -> list[MessageAnswer]:
    """Lists the messages about a payment and its refunds, sent or still to be sent, oldest first."""
    await services.reading.get(caller, payment)
    details = await services.message_record.of_subjects(caller, await services.subjects_of(payment))
    return [MessageAnswer.of(one) for one in details]


@router.get("/admin/notify", summary="All bindings", responses=problems.declared())
async def all_bindings(services: InServices, caller: Admin) -> list[BindingAnswer]:
    """Lists every chat with its events, oldest first, including inactive ones."""
    return [_shown(bound) for bound in await services.bindings.all(caller)]


@router.post(
    "/admin/notify",
    status_code=201,
    response_model=BindingAnswer,
    summary="Bind a chat to events",
    responses=problems.declared(BindingExists, ShopNotConfigured),
)
async def add(body: NewBinding, services: InServices, caller: Admin) -> Response:
    """Sends the events of one shop, or of all shops, to a chat from now on."""
    bound = await services.bindings.add(caller, BindingRequest(**body.model_dump()))
    location = f"/admin/notify/{bound.binding.id}"
    return json_response(_shown(bound), 201, headers={"Location": location})


@router.get("/admin/notify/{id}", summary="One binding", responses=problems.declared(BindingNotFound))
async def one(id: BindingId, services: InServices, caller: Admin) -> BindingAnswer:
    """Returns one binding."""
    return _shown(await services.bindings.get(caller, id))


@router.put("/admin/notify/{id}", summary="Change a binding", responses=problems.declared(BindingNotFound))
async def change(id: BindingId, body: BindingChange, services: InServices, caller: Admin) -> BindingAnswer:
    """Changes the given fields. Switching on also enables a disabled chat."""
    return _shown(await services.bindings.change(caller, id, body.given()))


@router.delete("/admin/notify/{id}", summary="Switch a binding off", responses=problems.declared(BindingNotFound))
async def remove(id: BindingId, services: InServices, caller: Admin) -> BindingAnswer:
    """Switches the binding off. Nothing is deleted; PUT switches it on again."""
    return _shown(await services.bindings.change(caller, id, {"is_active": False}))


@router.post(
    "/admin/notify/{id}/test",
    summary="Send a test message",
    responses=problems.declared(BindingNotFound, MessageNotSent),
)
async def send_test(id: BindingId, services: InServices, caller: Admin) -> BindingAnswer:
    """Sends a test message and returns whether it was delivered."""
    return _shown(await services.bindings.send_test(caller, id))


def _shown(bound: BoundChat) -> BindingAnswer:
    binding, chat = bound.binding, bound.chat
    return BindingAnswer(
        id=binding.id,
        channel=chat.channel,
        address=chat.address,
        shop_id=binding.shop_id,
        events=binding.events,
        language=binding.language,
        description=binding.description,
        is_active=binding.is_active,
        disabled_at=chat.disabled_at,
        disabled_reason=chat.disabled_reason,
        created_by=binding.created_by,
        created_at=binding.created_at,
        updated_at=binding.updated_at,
    )
