"""The programs: dev, demo, serve, worker, sandbox, migrate. Groups of commands have files of their own."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from payment_service import logs, schema
from payment_service import main as programs
from payment_service.cli import audit, keys, notify, payments, secrets, shops, webhooks
from payment_service.cli.legacy import import_legacy
from payment_service.cli.output import fail, sentence_of
from payment_service.cli.reconcile import reconcile
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
def dev(
    data: Annotated[Path, typer.Option(help="Where the development data is kept.")] = Path(".data"),
    port: Annotated[int, typer.Option(min=1, max=65535, help="The service's port.")] = 8015,
    sandbox_port: Annotated[int, typer.Option(min=1, max=65535, help="The stand-in proxy's port.")] = 8016,
) -> None:
    """Start everything on this machine: PostgreSQL, the stand-in proxy, the service and its worker.

    The first start makes a database in the data folder, the seven shops and shop 8, and device tokens that only the
    stand-in knows. Ctrl-C stops all of it. With DATABASE_URL set, that database is used instead.
    """
    from payment_service.dev import server  # noqa: PLC0415 - its parts are not installed in production

    server.run(data, port=port, sandbox_port=sandbox_port)


@app.command()
def demo(
    url: Annotated[str, typer.Option(help="The development server.")] = "http://127.0.0.1:8015",
    sandbox_url: Annotated[str, typer.Option(help="Its stand-in proxy.")] = "http://127.0.0.1:8016",
) -> None:
    """Play the main job against the running development server: seven sellers, a decline, a refund, a lost reply."""
    from payment_service.dev import demo as player  # noqa: PLC0415 - as for dev

    player.play(url, sandbox_url)


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
def sandbox(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Listen here, on this machine only.")] = 8016,
    tokens_file: Annotated[
        Path | None, typer.Option(help='JSON {"BIN": ["device token", ...]}, read again when it changes.')
    ] = None,
    ledger_file: Annotated[Path | None, typer.Option(help="Keeps the ledger over restarts.")] = None,
    pay_after: Annotated[float, typer.Option(min=0, help="Seconds until the customer pays.")] = 6,
    deadline: Annotated[float, typer.Option(min=0, help="The service's deadline of a call, in seconds.")] = 8,
) -> None:
    """Run the stand-in for the production proxy. It moves no money. The access token is KASPI_ACCESS_TOKEN."""
    from payment_service.sandbox.config import SandboxConfig  # noqa: PLC0415 - a program of its own
    from payment_service.sandbox.server import run  # noqa: PLC0415 - a program of its own

    try:
        config = SandboxConfig(
            access_token=os.environ.get("KASPI_ACCESS_TOKEN", ""),
            tokens_file=tokens_file,
            ledger_file=ledger_file,
            port=port,
            pay_after_s=pay_after,
            deadline_s=deadline,
        )
    except ValueError as error:
        fail(str(error))
    run(config)


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
