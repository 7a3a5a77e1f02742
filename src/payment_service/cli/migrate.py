"""``payment-service migrate``."""

import asyncio
import getpass

import typer

from payment_service.observability import logs
from payment_service.observability.context import Origin, origin
from payment_service.postgres import migrating, schema
from payment_service.postgres.database import Database
from payment_service.postgres.months import make_months
from payment_service.routing.rule import set_needs_two
from payment_service.settings import Settings, load

app = typer.Typer()


@app.command()
def migrate() -> None:
    """Bring the database to the newest schema. Safe to run twice, and from several machines at once.

    Also writes ROUTE_CHANGE_NEEDS_TWO into the database where it is set, and makes the partitions of the next months.
    """
    settings = load()
    logs.configure(readable=True, level="WARNING")
    migrating.migrate(settings.session_url)
    if asyncio.run(_write_rule(settings)):
        needed = "two administrators" if settings.route_change_needs_two else "one administrator"
        typer.echo(f"A change of where the money of a shop goes needs {needed} from now on.")
    typer.echo(f"The database is at schema {schema.head()}.")


async def _write_rule(settings: Settings) -> bool:
    origin.set(Origin(f"cli:{getpass.getuser()}"))
    database = Database(settings.session_url, pool_size=settings.database_pool_size)
    try:
        await make_months(database)
        # Unset is not false: migrating from another machine must not remove the rule of two people.
        needs_two = settings.route_change_needs_two
        return needs_two is not None and await set_needs_two(database, needs_two=needs_two)
    finally:
        await database.close()
