"""``payment-service events``: take old months of events out of the database."""

from datetime import UTC

import typer

from payment_service.cli.output import Before, fail
from payment_service.cli.running import with_database
from payment_service.events import retiring
from payment_service.postgres.database import Database
from payment_service.postgres.months import NotRetired

app = typer.Typer(no_args_is_help=True)


@app.callback()
def events() -> None:
    """Events, and what was delivered and told of them."""


@app.command()
def retire(
    *,
    before: Before,
) -> None:
    """Take old months of events, deliveries and messages out, as the owner of the tables. Nothing is deleted.

    Their tables stand beside the others until a person dumps and drops them: see docs/events.md.
    """

    async def work(database: Database) -> None:
        wanted = await retiring.retirable(database, before=before.replace(tzinfo=UTC))
        if not wanted:
            fail(f"No events are there of months that ended before {before:%Y-%m}.")
        for partition in wanted:
            try:
                await retiring.retire(database, partition)
            except NotRetired as error:
                fail(str(error))
            typer.echo(f"{partition} has left, with its deliveries, tries and messages.")

    with_database(work)
