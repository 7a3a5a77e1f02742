"""The command line: all commands, each in a file of its own, which is imported when it is called."""

import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Final

import typer
import typer.main
from typer.core import TyperCommand, TyperGroup

from payment_service import __version__
from payment_service.cli.loading import load

COMMANDS: Final = {
    "serve": "Serve the API. The database must be at the newest schema: run 'migrate' first.",
    "worker": "Poll payments and deliver events in the background. Any number of workers may run, on any machines.",
    "migrate": "Bring the database to the newest schema. Safe to run twice, and from several machines at once.",
    "shops": "The routing of shops: which BIN and device token each one's money uses.",
    "payments": "Tasks for people, and settling by hand.",
    "reconcile": "Ask the provider about every payment of a period again; print what differs, and the sums per shop "
    "and BIN.",
    "notify": "Messages to people: which chats receive which events.",
    "webhooks": "Webhook endpoints and deliveries.",
    "events": "Take old months of events out of the database.",
    "keys": "API keys, their scopes and shops.",
    "people": "Who may sign in to the console: accounts, their roles and shops.",
    "doctor": "Check everything and say what to do: settings, database, provider, workers, waiting work.",
    "sending": "Whether payments and refunds are sent, and the switch that holds them.",
    "secrets": "The key that encrypts device tokens at rest.",
    "audit": "The audit log: verify its seals, and export it.",
    "openapi": "Print the OpenAPI document, from which clients are generated.",
    "import-legacy": "Import the routing and the log of the old service. It can be repeated: a second run adds only "
    "what is new.",
}
"""Every command and group of commands, with its help. ``import-legacy`` is ``app`` of ``import_legacy``."""


class Deferred(TyperCommand):
    """A command or group whose file is imported when it is called: until then only its name and help are known."""

    def load(self) -> Any:
        """Import the file and return its command."""
        file = load(f"payment_service.cli.{self.name}".replace("-", "_"))
        command = typer.main.get_command(file.app)
        # Typer adds them to every app; they belong to the program.
        command.params = [one for one in command.params if one.name not in {"install_completion", "show_completion"}]
        if isinstance(command, TyperGroup):
            command.help = self.help
        return command

    def make_context(self, *args: Any, **extra: Any) -> Any:
        """Let Typer continue with the loaded command."""
        return self.load().make_context(*args, **extra)


class _CommandLine(TyperGroup):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for name, line in COMMANDS.items():
            self.add_command(Deferred(name, help=line))


app = typer.Typer(cls=_CommandLine, no_args_is_help=True, pretty_exceptions_enable=False)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"payment-service {__version__}")
        raise typer.Exit


@app.callback()
def payment_service(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Routes each payment of a marketplace to the Kaspi account of the seller it belongs to.

    Settings come from the environment and .env; .env.example explains each.
    """


def main() -> None:
    """Run the command line; errors are printed as sentences."""
    if sys.stdout is None:  # it was closed before we began, as cron jobs may do
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - for as long as the process lives
    try:
        app()
    except Exception as error:
        if (sentence := import_module("payment_service.cli.errors").sentence_of(error)) is None:
            raise
        sys.exit(sentence)
