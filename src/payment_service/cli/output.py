"""What commands print: a table for people, JSON for scripts (``--json``), one sentence when something is wrong."""

import asyncio
import getpass
import json
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Any, NoReturn, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from payment_service.characters import checked_text
from payment_service.errors import ServiceError
from payment_service.observability import logs
from payment_service.observability.context import Origin, origin
from payment_service.postgres.connecting import ConnectArgumentError, trouble_of
from payment_service.postgres.database import is_unreachable, lacks_schema
from payment_service.postgres.vault import VaultError
from payment_service.programs import StartError
from payment_service.services import Services, open_services
from payment_service.settings import Settings, SettingsError, load, load_of_development_server

Result = TypeVar("Result")
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


def plain(text: str | None) -> str | None:
    """A callback for options whose text is kept: it refuses what the API refuses."""
    try:
        return None if text is None else checked_text(text)
    except ValueError as error:
        raise typer.BadParameter(f"It {error}.") from error


Reason = Annotated[str, typer.Option(help="Why; kept in the history.", callback=plain)]


def fail(sentence: str) -> NoReturn:
    """End the command with a sentence on standard error and exit code 1."""
    typer.echo(sentence, err=True)
    raise typer.Exit(1)


def sentence_of(error: Exception) -> str | None:
    """What to tell a person about an error that nobody need debug; none for any other."""
    match error:
        case SettingsError() | StartError() | ConnectArgumentError() | VaultError():
            return str(error)
        case ServiceError():
            return error.detail
        case OSError() if error.filename is not None:
            return f"{error.filename} cannot be used: {error.strerror}."
    if lacks_schema(error):
        return "The database is not at the schema that this code needs: run 'payment-service migrate' first."
    if trouble := trouble_of(error):
        return trouble.sentence
    if is_unreachable(error):
        return f"The database that DATABASE_URL names cannot serve just now ({type(error).__name__}): try again later."
    return None


def show(
    rows: Sequence[Mapping[str, Any]], *, as_json: bool, title: str | None = None, empty: str = "Nothing."
) -> None:
    """Print rows with the same keys."""
    if as_json:
        typer.echo(json.dumps(list(rows), ensure_ascii=False, indent=2, default=str))
        return
    if not rows:
        typer.echo(empty)
        return
    table = Table(title=title, title_justify="left")
    for name in rows[0]:
        table.add_column(name.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    console = Console(width=None if sys.stdout.isatty() else 200)
    console.print(table)


def _cell(value: object) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case list() | tuple():
            return ", ".join(str(one) for one in value)
        case _:
            return str(value)


def _settings() -> Settings:
    found = load_of_development_server()
    if found is None:
        return load()
    typer.echo("With the development server's settings: neither the environment nor .env has any.", err=True)
    return found


def in_house(action: Callable[[Services], Awaitable[Result]], settings: Settings | None = None) -> Result:
    """Run a command's work with the services, as the person at the command line."""
    settings = settings or _settings()
    logs.configure(readable=True, level="WARNING")

    async def work() -> Result:
        origin.set(Origin(f"cli:{getpass.getuser()}"))
        async with open_services(settings) as services:
            return await action(services)

    return asyncio.run(work())
