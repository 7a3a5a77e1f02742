"""The programs: serve, worker, migrate. Groups of commands have files of their own."""

import asyncio
import sys
from typing import Annotated

import typer

from payment_service import programs
from payment_service.cli import audit, keys, notify, payments, secrets, shops, webhooks
from payment_service.cli.legacy import import_legacy
from payment_service.cli.output import sentence_of
from payment_service.cli.reconcile import reconcile
from payment_service.observability import logs
from payment_service.postgres import schema
from payment_service.settings import load

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Routes each payment of a marketplace to the Kaspi account of the seller it belongs to. "
    "Settings come from the environment and .env; .env.example explains each.",
)
app.add_typer(shops.app, name="shops")
app.add_typer(payments.app, name="payments")
app.add_typer(notify.app, name="notify")
app.add_typer(webhooks.app, name="webhooks")
app.add_typer(keys.app, name="keys")
app.add_typer(secrets.app, name="secrets")
app.add_typer(audit.app, name="audit")
app.command()(reconcile)
app.command("import-legacy")(import_legacy)

PortOption = Annotated[int | None, typer.Option(min=1, max=65535, help="Listen here instead of on PORT.")]


@app.command()
def serve(port: PortOption = None) -> None:
    """Serve the API. The database must be at the newest schema: run 'migrate' first."""
    settings = load()
    if port is not None:
        settings = settings.model_copy(update={"port": port})
    programs.serve(settings)


@app.command()
def worker() -> None:
    """Follow payments and deliver events in the background. Run as many as you like, on any machines."""
    settings = load()
    logs.configure(readable=settings.debug, level=settings.log_level)
    asyncio.run(programs.work(settings))


@app.command()
def migrate() -> None:
    """Bring the database to the newest schema. Safe to run twice, and from several machines at once."""
    settings = load()
    logs.configure(readable=True, level="WARNING")
    schema.migrate(settings.database_url.get_secret_value())
    typer.echo(f"The database is at schema {schema.head()}.")


def main() -> None:
    """Run the command line; what goes wrong is told in a sentence."""
    try:
        app()
    except Exception as error:
        if (sentence := sentence_of(error)) is None:
            raise
        sys.exit(sentence)
