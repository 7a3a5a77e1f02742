"""Messages: which chats get what, and of one chat what was sent to it."""

from typing import Final

from starlette.responses import Response

from payment_service.console.lists import sellers
from payment_service.console.payment_status import Tone
from payment_service.console.web import PageContext, Refused, uuid_of
from payment_service.console.webhooks import payment_of
from payment_service.languages import mark

STATES: Final[dict[str, tuple[Tone, str]]] = {
    "waiting": ("wait", mark("waits")),
    "failed": ("warn", mark("not sent yet")),
    "sent": ("good", mark("sent")),
    "dead": ("bad", mark("given up")),
}


async def messages(context: PageContext) -> Response:
    """The page."""
    caller, record = context.me.caller, context.services.message_record
    bound = await context.services.bindings.all(caller)
    chat_id = uuid_of(context.query("chat")) if context.query("chat") else None
    not_sent = context.query("show") == "not-sent"
    chats = {one.chat.id: one.chat for one in bound}
    chat = chats.get(chat_id) if chat_id else None
    if chat_id and chat is None:
        raise Refused(404)
    return context.page(
        "messages.html",
        chats=[(chat, [one.binding for one in bound if one.chat.id == chat.id]) for chat in chats.values()],
        waiting=await record.waiting(caller, chats),
        sellers=await sellers(context, (one.binding.shop_id for one in bound)),
        chat=chat,
        not_sent=not_sent,
        told=[
            (one, payment_of(one.event.type, one.event.subject_id, one.event.data))
            for one in (await record.of_chat(caller, chat.id, not_sent=not_sent) if chat else ())
        ],
        states=STATES,
    )
