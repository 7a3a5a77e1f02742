"""``payment-service webhooks``: endpoints that events are delivered to, the deliveries, and delivering again."""

import asyncio
import time
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from payment_service.access.service import FULL_ACCESS
from payment_service.cli.output import AsJson, asked_for, completing, fail, fields_of, in_utc, plain, show, show_once
from payment_service.cli.running import with_services
from payment_service.events.outbox import SUBSCRIBABLE
from payment_service.webhooks.endpoints import NewSecret
from payment_service.webhooks.models import EventDelivery, WebhookEndpoint
from payment_service.webhooks.record import DeliveryDetails

if TYPE_CHECKING:
    from payment_service.services import Services

app = typer.Typer(no_args_is_help=True)
EndpointId = Annotated[UUID, typer.Argument(help="The endpoint's id that 'list' shows.")]
DeliveryId = Annotated[UUID, typer.Argument(help="The delivery's id that 'deliveries' shows.")]
EVENT = f"A type of event, once per type; all if left out: {', '.join(SUBSCRIBABLE)}."
EventOption = Annotated[list[str] | None, typer.Option("--event", help=EVENT, autocompletion=completing(SUBSCRIBABLE))]
ShopOption = Annotated[list[int] | None, typer.Option("--shop", help="A shop, once per shop; all if left out.")]
HEADER = (
    "A header to send along, once per header: 'Name: value', or of a secret the name alone. Its value is asked for, or "
    "read from standard input, so that no list of processes and no shell history has it."
)
HeaderOption = Annotated[list[str] | None, typer.Option("--header", help=HEADER)]
WAIT_S = 25
_OF_ENDPOINT = ("is_active", "off_reason", "failing_since", "unreadable")
_OF_EVENT = ("id", "event_id", "endpoint_id", "type", "subject_id", "version")
_OF_STATE = ("state", "tries", "next_try_at", "created_at")
_OF_TRY = ("succeeded", "status", "error", "answer", "duration_ms")


@app.command("list")
def list_endpoints(*, as_json: AsJson = False) -> None:
    """List every endpoint with the state of its deliveries, including those that are off."""

    async def work(services: "Services") -> list[dict[str, Any]]:
        return [services.endpoints.shown(endpoint) for endpoint in await services.endpoints.all(FULL_ACCESS)]

    shown = with_services(work)
    show(
        shown if as_json else [_line(one) for one in shown],
        as_json=as_json,
        empty="No endpoints yet: payment-service webhooks add",
    )


@app.command()
def add(
    url: Annotated[str, typer.Argument(help="https:// and on the public Internet.")],
    description: Annotated[str, typer.Option(help="Whose it is.", callback=plain)] = "",
    events: EventOption = None,
    shops: ShopOption = None,
    headers: HeaderOption = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Add an endpoint. Events are delivered to it from now on. Its secret is shown only now."""
    fields = {
        "url": url,
        "description": description,
        "events": events or None,
        "shops": shops or None,
        "headers": _headers(headers or []),
    }

    async def work(services: "Services") -> tuple[NewSecret, dict[str, Any]]:
        await services.routing.require_all(shops or ())
        made = await services.endpoints.add(FULL_ACCESS, fields)
        return made, services.endpoints.shown(made.endpoint)

    made, shown = with_services(work)
    _show_secret(made, shown, as_json=as_json)


@app.command()
def change(
    endpoint_id: EndpointId,
    url: Annotated[str | None, typer.Option(help="https:// and on the public Internet.")] = None,
    description: Annotated[str | None, typer.Option(help="Whose it is.", callback=plain)] = None,
    events: EventOption = None,
    shops: ShopOption = None,
    headers: HeaderOption = None,
    *,
    all_events: Annotated[bool, typer.Option("--all-events", help="All events.")] = False,
    all_shops: Annotated[bool, typer.Option("--all-shops", help="All shops, and events without a shop.")] = False,
    no_headers: Annotated[bool, typer.Option("--no-headers", help="Remove all headers.")] = False,
    on: Annotated[
        bool | None, typer.Option("--on/--off", help="Switch it on, and send at once what waited; or off.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Change an endpoint; what is not given stays as it is. Headers are replaced by those that are given."""
    fields: dict[str, Any] = {"url": url, "description": description, "events": events or None, "shops": shops or None}
    fields |= {"headers": _headers(headers) if headers else None, "is_active": on}
    fields = {name: value for name, value in fields.items() if value is not None}
    fields |= {"events": None} if all_events else {}
    fields |= {"shops": None} if all_shops else {}
    fields |= {"headers": {}} if no_headers else {}
    if not fields:
        fail("Say what to change: payment-service webhooks change --help")
    _change(endpoint_id, fields, as_json=as_json)


@app.command()
def remove(endpoint_id: EndpointId, *, as_json: AsJson = False) -> None:
    """Switch an endpoint off. Nothing is deleted: 'change --on' switches it on again."""
    _change(endpoint_id, {"is_active": False}, as_json=as_json)


@app.command("rotate-secret")
def rotate_secret(
    endpoint_id: EndpointId,
    keep_old: Annotated[
        int, typer.Option(min=0, max=30 * 86400, help="Deliveries are signed with both secrets for this many seconds.")
    ] = 86400,
    *,
    as_json: AsJson = False,
) -> None:
    """Give an endpoint a new secret. It is shown once, now."""

    async def work(services: "Services") -> tuple[NewSecret, dict[str, Any]]:
        made = await services.endpoints.rotate_secret(FULL_ACCESS, endpoint_id, keep_old_s=keep_old)
        return made, services.endpoints.shown(made.endpoint)

    made, shown = with_services(work)
    _show_secret(made, shown, as_json=as_json)


@app.command("test")
def send_test(endpoint_id: EndpointId, *, as_json: AsJson = False) -> None:
    """Send an endpoint a test event and print the result. A worker must be running."""

    async def work(services: "Services") -> DeliveryDetails:
        delivery = await services.deliveries.test(FULL_ACCESS, endpoint_id)
        give_up_at = time.monotonic() + WAIT_S
        while (found := await services.delivery_record.get(FULL_ACCESS, delivery.id)).delivery.state == "waiting":
            if time.monotonic() > give_up_at:
                fail(f"The test was not sent within {WAIT_S} s: is a worker running?")
            await asyncio.sleep(0.1)
        return found

    found = with_services(work)
    _show_details(found, as_json=as_json)
    if found.delivery.state != "delivered":
        raise typer.Exit(1)


@app.command()
def deliveries(
    endpoint: Annotated[UUID | None, typer.Option(help="Only to this endpoint.")] = None,
    state: Annotated[str | None, typer.Option(help="Only waiting, delivered or dead ones.")] = None,
    event: Annotated[
        str | None, typer.Option(help="Only of this type of event.", autocompletion=completing(SUBSCRIBABLE))
    ] = None,
    since: Annotated[datetime | None, typer.Option(help="Only from this time on (UTC).")] = None,
    until: Annotated[datetime | None, typer.Option(help="Only before this time (UTC).")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="The maximum number of deliveries.")] = 50,
    cursor: Annotated[str | None, typer.Option(help="The cursor that the page before printed.")] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """List deliveries, newest first."""
    page = with_services(
        lambda services: services.delivery_record.search(
            FULL_ACCESS,
            endpoint_id=endpoint,
            states=[state] if state else (),
            type=event,
            since=in_utc(since),
            until=in_utc(until),
            limit=limit,
            cursor=cursor,
        )
    )
    show([_delivery(delivery) for delivery in page.rows], as_json=as_json)
    if page.next_cursor:
        typer.echo(f"More: --cursor {page.next_cursor}", err=True)


@app.command("show")
def show_delivery(delivery_id: DeliveryId, *, as_json: AsJson = False) -> None:
    """Show a delivery with every try."""
    found = with_services(lambda services: services.delivery_record.get(FULL_ACCESS, delivery_id))
    _show_details(found, as_json=as_json)


@app.command()
def replay(
    delivery_id: Annotated[
        UUID | None, typer.Argument(help="The id of a delivery that 'deliveries' shows; or:")
    ] = None,
    endpoint: Annotated[UUID | None, typer.Option(help="Many, to this endpoint, by the options below.")] = None,
    failed_since: Annotated[datetime | None, typer.Option(help="All that failed since this time (UTC).")] = None,
    since: Annotated[
        datetime | None, typer.Option(help="Every event from this time on (UTC), delivered or not, with --until.")
    ] = None,
    until: Annotated[datetime | None, typer.Option(help="The end of that period (UTC).")] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Deliver again: one, all that failed since a time, or everything of a period."""
    times = (in_utc(failed_since), in_utc(since), in_utc(until))

    async def work(services: "Services") -> int | None:
        match delivery_id, endpoint, *times:
            case UUID() as one, None, None, None, None:
                await services.delivery_record.replay(FULL_ACCESS, one)
                return 1
            case None, UUID() as to, datetime() as failed, None, None:
                return await services.delivery_record.replay_failed(FULL_ACCESS, to, failed)
            case None, UUID() as to, None, datetime() as begin, datetime() as end:
                return await services.delivery_record.replay_period(FULL_ACCESS, to, begin, end)
            case _:
                return None

    replayed = with_services(work)
    if replayed is None:
        fail("Name a delivery, or --endpoint with --failed-since, or --endpoint with --since and --until.")
    show([{"replayed": replayed}], as_json=as_json)


def _change(endpoint_id: UUID, fields: dict[str, Any], *, as_json: bool) -> None:
    async def work(services: "Services") -> dict[str, Any]:
        await services.routing.require_all(fields.get("shops") or ())
        endpoint: WebhookEndpoint = await services.endpoints.change(FULL_ACCESS, endpoint_id, fields)
        return services.endpoints.shown(endpoint)

    shown = with_services(work)
    show([shown if as_json else _line(shown)], as_json=as_json)


def _show_secret(made: NewSecret, shown: dict[str, Any], *, as_json: bool) -> None:
    show_once(shown if as_json else _line(shown), "secret", made.secret, as_json=as_json)


def _show_details(found: DeliveryDetails, *, as_json: bool) -> None:
    tries = [{"number": tried.number, "at": tried.created_at, **fields_of(tried, *_OF_TRY)} for tried in found.tries]
    if as_json:
        show([{**_delivery(found.delivery), "attempts": tries}], as_json=True)
        return
    show([_delivery(found.delivery)], as_json=False)
    show(tries, as_json=False, empty="No tries yet.")


def _headers(lines: list[str]) -> dict[str, str]:
    pairs = [line.partition(":") for line in lines]
    return {name.strip(): value.strip() if colon else asked_for(name) for name, colon, value in pairs}


def _line(shown: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": shown["id"],
        "url": shown["url"],
        "description": shown["description"],
        "events": shown["events"] or "all",
        "shops": shown["shops"] or "all",
        **{name: shown[name] for name in _OF_ENDPOINT},
    }


def _delivery(delivery: EventDelivery) -> dict[str, Any]:
    return fields_of(delivery, *_OF_EVENT, *_OF_STATE)
