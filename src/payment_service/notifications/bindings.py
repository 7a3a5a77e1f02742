"""Which chat receives which events: added, changed, switched off and tested by callers, each within their shops.

A chat that is bound to all shops belongs to callers of all shops.
"""

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, assert_never
from uuid import UUID

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from payment_service.access.quota import MAX_OF_SOME_SHOPS, check_quota
from payment_service.access.service import Caller
from payment_service.audit import service as audit
from payment_service.errors import BindingExists, BindingNotFound, InvalidInput, MessageNotSent, ShopNotConfigured
from payment_service.events.outbox import checked_types
from payment_service.identifiers import new_id
from payment_service.languages import Language
from payment_service.notifications.channel import ChatGone, ChatMoved, Refused, Sent, TryAgain
from payment_service.notifications.models import NotifyBinding, NotifyChat
from payment_service.notifications.service import Notifications
from payment_service.notifications.texts import note_of_test
from payment_service.observability.context import origin
from payment_service.postgres.database import Database, is_duplicate
from payment_service.postgres.visibility import of_shops
from payment_service.routing.models import PaymentConfig

ADDRESSES: Final[Mapping[str, tuple[re.Pattern[str], str]]] = {
    "telegram": (
        re.compile(r"-?[1-9][0-9]{0,18}|@[A-Za-z][A-Za-z0-9_]{3,31}"),
        "is a chat's number, such as -1001234567890, or a channel's @name",
    ),
    "email": (
        re.compile(r"(?=.{3,254}$)[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*"),
        "is an e-mail address",
    ),
}
"""The channels that there are, and what an address of each looks like."""


@dataclass(frozen=True, slots=True)
class BoundChat:
    """A binding with its chat."""

    binding: NotifyBinding
    chat: NotifyChat


@dataclass(frozen=True, slots=True, kw_only=True)
class BindingRequest:
    """What a chat is to receive. Without a shop it receives the events of all shops."""

    channel: str
    address: str
    shop_id: int | None
    events: Sequence[str]
    language: str = Language.RU
    description: str = ""


@dataclass(frozen=True, slots=True)
class Bindings:
    """The bindings of all chats."""

    database: Database
    notifications: Notifications

    # --- reading

    async def all(self, caller: Caller) -> list[BoundChat]:
        """Every binding that the caller may see, oldest first, those that are switched off too."""
        async with self.database.reading() as session:
            return await _read(session, caller)

    async def get(self, caller: Caller, binding_id: UUID) -> BoundChat:
        """One binding.

        Raises:
            BindingNotFound: when there is none that the caller may see.
        """
        async with self.database.reading() as session:
            return await _visible(session, caller, binding_id)

    # --- changing

    async def add(self, caller: Caller, request: BindingRequest) -> BoundChat:
        """Bind a chat. One that was bound to that shop before and switched off is switched on with what is given.

        Raises:
            BindingExists: when the chat is bound to that shop.
            ShopNotConfigured: for a shop that is not there, or not the caller's.
            InvalidInput: for a field that is wrong, and for one chat too many.
        """
        events, language = checked_types(request.events), checked_language(request.language)
        address = _checked_address(request.channel, request.address)
        if request.shop_id is None and not caller.may_touch(None):
            raise InvalidInput("shop_id", "is needed: this key may not bind a chat to all shops")
        if request.shop_id is not None:
            caller.require_shop(request.shop_id)
        given = {"events": events, "language": language, "description": request.description, "is_active": True}
        try:
            async with self.database.transaction() as session:
                await _require_shop(session, request.shop_id)
                chat = await _chat_at(session, request.channel, address)
                chat.disabled_at = chat.disabled_reason = None
                binding = await _binding_of(session, chat, request.shop_id)
                if binding is not None and binding.is_active:
                    raise BindingExists(address, request.shop_id)
                if binding is None:
                    binding = NotifyBinding(
                        id=new_id(), chat_id=chat.id, shop_id=request.shop_id, created_by=origin.get().actor
                    )
                    session.add(binding)
                _put(binding, given)
                await audit.record_change(session, "chat-bind", binding)
                await _check_quota(session, caller)
                return await _visible(session, caller, binding.id)
        except IntegrityError as error:
            if not is_duplicate(error):
                raise
            raise BindingExists(address, request.shop_id) from error

    async def change(self, caller: Caller, binding_id: UUID, fields: Mapping[str, Any]) -> BoundChat:
        """Change ``events``, ``language``, ``description`` or ``is_active``; the others stay.

        Switching on also enables a disabled chat again: the caller has corrected it.

        Raises:
            BindingNotFound: when there is none that the caller may see.
            InvalidInput: for a field that is wrong.
        """
        checked = dict(fields)
        if "events" in checked:
            checked["events"] = checked_types(checked["events"])
        if "language" in checked:
            checked["language"] = checked_language(checked["language"])
        async with self.database.transaction() as session:
            bound = await _visible(session, caller, binding_id)
            _put(bound.binding, checked)
            if checked.get("is_active"):
                bound.chat.disabled_at = bound.chat.disabled_reason = None
            await audit.record_change(session, "chat-change", bound.binding)
            if checked.get("is_active"):
                await _check_quota(session, caller)
        return bound

    async def send_test(self, caller: Caller, binding_id: UUID) -> BoundChat:
        """Send a test message. When it arrives, a disabled chat is enabled again.

        Raises:
            BindingNotFound: when there is none that the caller may see.
            MessageNotSent: with the channel's reason.
        """
        bound = await self.get(caller, binding_id)
        note = await asyncio.to_thread(note_of_test, Language(bound.binding.language))
        delivery = await self.notifications.send_now(bound.chat, note)
        match delivery:
            case Sent():
                return await self.get(caller, binding_id)
            case ChatMoved(address):
                raise MessageNotSent(f"the chat's address is {address} from now on: try once more")
            case TryAgain(reason) | Refused(reason) | ChatGone(reason):
                raise MessageNotSent(reason)
            case _:
                assert_never(delivery)


def checked_language(language: str) -> Language:
    """A language that there are texts in.

    Raises:
        InvalidInput: for any other.
    """
    if language not in set(Language):
        raise InvalidInput("language", f"is one of {', '.join(Language)}")
    return Language(language)


def _checked_address(channel: str, address: str) -> str:
    if channel not in ADDRESSES:
        raise InvalidInput("channel", f"is one of {', '.join(ADDRESSES)}")
    pattern, words = ADDRESSES[channel]
    if not pattern.fullmatch(address):
        raise InvalidInput("address", words)
    return address


def _put(binding: NotifyBinding, fields: Mapping[str, Any]) -> None:
    for name, value in fields.items():
        setattr(binding, name, value)


async def _check_quota(session: AsyncSession, caller: Caller) -> None:
    """All chats of a channel share its rate."""

    async def bound() -> int:
        active = select(func.count()).where(NotifyBinding.is_active, of_shops(NotifyBinding.shop_id, caller.shops))
        return (await session.execute(active)).scalar_one()

    refusal = InvalidInput("shop_id", f"has {MAX_OF_SOME_SHOPS} chats that are told already: switch one off")
    await check_quota(session, caller, "chats", bound, refusal)


async def _require_shop(session: AsyncSession, shop_id: int | None) -> None:
    if shop_id is None:
        return
    if await session.scalar(select(PaymentConfig.id).where(PaymentConfig.shop_id == shop_id)) is None:
        raise ShopNotConfigured(shop_id)


async def _chat_at(session: AsyncSession, channel: str, address: str) -> NotifyChat:
    """The chat at an address, made when it is new."""
    made = insert(NotifyChat).values(id=new_id(), channel=channel, address=address).on_conflict_do_nothing()
    is_new = await session.scalar(made.returning(NotifyChat.id)) is not None
    found = select(NotifyChat).where(NotifyChat.channel == channel, NotifyChat.address == address)
    chat = (await session.scalars(found.with_for_update())).one()
    if is_new:
        await audit.record_change(session, "chat-create", chat)
    return chat


async def _binding_of(session: AsyncSession, chat: NotifyChat, shop_id: int | None) -> NotifyBinding | None:
    of_shop = NotifyBinding.shop_id.is_(None) if shop_id is None else NotifyBinding.shop_id == shop_id
    return await session.scalar(select(NotifyBinding).where(NotifyBinding.chat_id == chat.id, of_shop))


async def _visible(session: AsyncSession, caller: Caller, binding_id: UUID) -> BoundChat:
    found = await _read(session, caller, NotifyBinding.id == binding_id)
    if not found:
        raise BindingNotFound(binding_id)
    return found[0]


async def _read(session: AsyncSession, caller: Caller, *conditions: ColumnElement[bool]) -> list[BoundChat]:
    """Bindings that the caller may see: those of all shops belong to callers of all shops."""
    query = (
        select(NotifyBinding, NotifyChat)
        .join(NotifyChat, NotifyChat.id == NotifyBinding.chat_id)
        .where(of_shops(NotifyBinding.shop_id, caller.shops), *conditions)
        .order_by(NotifyBinding.id)
    )
    return [BoundChat(binding, chat) for binding, chat in (await session.execute(query)).all()]
