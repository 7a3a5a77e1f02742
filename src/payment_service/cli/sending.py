"""``payment-service sending``: whether payments and refunds are sent, and the switch that holds them."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from payment_service.cli.loading import load as load_module
from payment_service.cli.output import AsJson, Reason, fail, show
from payment_service.cli.running import with_database, with_services
from payment_service.idempotency.holding import (
    HOLD_TEXTS,
    Holding,
    NotSynchronousError,
    OtherProviderError,
    SendingStatus,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from payment_service.idempotency.models import SendingHold
    from payment_service.services import Services

app = typer.Typer(no_args_is_help=True)


@app.command("show")
def show_status(*, as_json: AsJson = False) -> None:
    """Show whether payments and refunds are sent, and if not, why. Exit code 1 when they are not."""
    status = with_database(lambda database: Holding(database).status())
    show([_line(status)], as_json=as_json)
    if status.hold_reason is not None:
        fail("Nothing is sent: docs/deploy.md, 'After a restore or a failover', says what to do first.")


@app.command()
def hold(reason: Reason) -> None:
    """Send nothing from now on, in every process. Replayed requests are still answered, and statuses are still read."""
    with_database(lambda database: Holding(database).hold(reason))
    typer.echo("Payments and refunds are held: each is refused with 503 sending_held, and nothing is sent.")


@app.command()
def release(
    reason: Reason,
    *,
    replicas_have_all: Annotated[
        bool,
        typer.Option(
            "--replicas-have-all", help="Replication is synchronous: a promoted replica needs no release of its own."
        ),
    ] = False,
    proxy_moved: Annotated[
        bool, typer.Option("--proxy-moved", help="PRODUCTION_API_URL is the new address of the same proxy.")
    ] = False,
) -> None:
    """Send again, from the database as it is now, to PRODUCTION_API_URL. It ends every hold, of whomever it is.

    First make sure that it holds all that was sent.
    """
    start = load_module("payment_service.programs.start")

    async def work(services: "Services") -> "Sequence[SendingHold]":
        await start.check_laws(services)
        try:
            return await services.holding.release(reason, replicas_have_all=replicas_have_all, proxy_moved=proxy_moved)
        except (NotSynchronousError, OtherProviderError) as error:
            fail(str(error))

    for ended in with_services(work):
        typer.echo(f"The hold of {ended.actor} since {ended.created_at:%Y-%m-%d %H:%M} UTC has ended: {ended.reason}")
    typer.echo("Payments and refunds are sent again.")


def _line(status: SendingStatus) -> dict[str, Any]:
    return {
        "sends": HOLD_TEXTS[status.hold_reason] if status.hold_reason else "yes",
        "since": status.latest.created_at.isoformat(timespec="seconds"),
        "by": status.latest.actor,
        "reason": status.latest.reason,
        "provider": status.latest.provider,
        "replicas_have_all": status.latest.replicas_have_all,
        "system_identifier": str(status.system_identifier),
        "timeline": status.timeline,
        "fsync": status.fsync,
    }
