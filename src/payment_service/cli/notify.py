"""``payment-service notify``: which chats receive which events."""

from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from payment_service.access.service import FULL_ACCESS
from payment_service.cli.output import AsJson, completing, plain, show
from payment_service.cli.running import with_services
from payment_service.events.outbox import SUBSCRIBABLE
from payment_service.languages import Language
from payment_service.notifications.bindings import BindingRequest, BoundChat
from payment_service.notifications.channel import SETTING_OF

if TYPE_CHECKING:
    from payment_service.services import Services

app = typer.Typer(no_args_is_help=True)
BindingId = Annotated[UUID, typer.Argument(help="The id that 'list' shows.")]


@app.command()
def add(
    chat: Annotated[
        str, typer.Option(help="A Telegram chat's number (-100123...) or a channel's @name; an e-mail address.")
    ],
    events: Annotated[str, typer.Option(help=f"The events, separated by commas: {', '.join(SUBSCRIBABLE)}.")],
    shop: Annotated[int | None, typer.Option(help="The shop; all shops if left out.")] = None,
    channel: Annotated[str, typer.Option(help="telegram or email.")] = "telegram",
    language: Annotated[
        str, typer.Option(help=f"One of {', '.join(Language)}.", autocompletion=completing(Language))
    ] = Language.RU,
    description: Annotated[str, typer.Option(help="Whose chat it is, for the list.", callback=plain)] = "",
    *,
    as_json: AsJson = False,
) -> None:
    """Send events to a chat from now on. Try it with 'notify test'."""
    request = BindingRequest(
        channel=channel,
        address=chat,
        shop_id=shop,
        events=[event.strip() for event in events.split(",") if event.strip()],
        language=language,
        description=description,
    )

    async def work(services: "Services") -> BoundChat:
        bound = await services.bindings.add(FULL_ACCESS, request)
        if channel not in services.notifications.channels:
            missing = f"{channel} is not set up here: {SETTING_OF[channel]} is missing"
            typer.echo(f"Warning: {missing}. Messages wait up to a day for a worker that has it.", err=True)
        return bound

    show([_line(with_services(work))], as_json=as_json)


@app.command("list")
def list_bindings(*, as_json: AsJson = False) -> None:
    """List the chats and their events, including those that are switched off or disabled."""
    lines = [_line(bound) for bound in with_services(lambda services: services.bindings.all(FULL_ACCESS))]
    show(lines, as_json=as_json, empty="There are no bindings yet: payment-service notify add")


@app.command()
def remove(binding_id: BindingId, *, as_json: AsJson = False) -> None:
    """Switch a binding off. Nothing is deleted; 'add' with the same chat and shop switches it on again."""
    off = {"is_active": False}
    bound = with_services(lambda services: services.bindings.change(FULL_ACCESS, binding_id, off))
    show([_line(bound)], as_json=as_json)


@app.command("test")
def send_test(binding_id: BindingId, *, as_json: AsJson = False) -> None:
    """Send a test message. When it arrives, a disabled chat is enabled again."""
    bound = with_services(lambda services: services.bindings.send_test(FULL_ACCESS, binding_id))
    show([_line(bound)], as_json=as_json)


def _line(bound: BoundChat) -> dict[str, Any]:
    binding, chat = bound.binding, bound.chat
    return {
        "id": binding.id,
        "channel": chat.channel,
        "chat": chat.address,
        "shop_id": binding.shop_id if binding.shop_id is not None else "all",
        "events": binding.events,
        "language": binding.language,
        "is_active": binding.is_active,
        "disabled": chat.disabled_reason,
        "description": binding.description,
    }
