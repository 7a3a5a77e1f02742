"""What commands share: options, and what they print.

That is a table for people, JSON for scripts (``--json``), one sentence when something is wrong.
"""

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from payment_service.characters import checked_text

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


def plain(text: str | None) -> str | None:
    """A callback for options whose text is stored: it refuses what the API refuses."""
    try:
        return None if text is None else checked_text(text)
    except ValueError as error:
        raise typer.BadParameter(f"It {error}.") from error


Before = Annotated[
    datetime, typer.Option(formats=["%Y-%m"], help="Months that ended before this one (UTC), as 2026-10.")
]
Reason = Annotated[str, typer.Option(help="The reason; kept in the history.", callback=plain)]


def in_utc(moment: datetime | None) -> datetime | None:
    """The time of an option, which is UTC unless it says another offset."""
    return None if moment is None else moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def completing(words: Iterable[str]) -> Callable[[], list[str]]:
    """The completions of a shell for a value that is one of these words; the command checks it later."""
    return lambda: list(words)


def asked_for(secret: str) -> str:
    """A secret, typed without echo or read from standard input, so that no process list or shell history has it."""
    given = str(typer.prompt(secret, hide_input=True)) if sys.stdin.isatty() else sys.stdin.readline().strip()
    return given or fail(f"{secret}: nothing was given on standard input.")


def fail(sentence: str) -> NoReturn:
    """End the command with a sentence on standard error and exit code 1."""
    typer.echo(sentence, err=True)
    raise typer.Exit(1)


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


def fields_of(row: object, *names: str) -> dict[str, Any]:
    """These attributes of a row, as a line of what ``show`` prints."""
    return {name: getattr(row, name) for name in names}


def show_once(row: Mapping[str, Any], name: str, secret: str, *, as_json: bool) -> None:
    """Print a row, and the secret that nobody is shown again."""
    if as_json:
        show([{**row, name: secret}], as_json=True)
    else:
        show([row], as_json=False)
        typer.echo(f"{name.capitalize()} (shown only now): {secret}")


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
