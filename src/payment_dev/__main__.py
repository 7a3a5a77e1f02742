"""``python -m payment_dev``: what runs on a developer's machine only. ``make run`` and ``make demo`` call it."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from payment_dev import demo as player
from payment_dev import laws as laws_file
from payment_dev import licences as licences_page
from payment_dev import server
from payment_service.cli.errors import sentence_of
from payment_service.postgres.laws import FILE

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="The development server, a demonstration on it, lists of licences and laws. None of it is installed.",
)


@app.command()
def run(
    data: Annotated[Path, typer.Option(help="Where the development data is kept.")] = Path(".data"),
    port: Annotated[int, typer.Option(min=1, max=65535, help="The service's port.")] = 8015,
    sandbox_port: Annotated[int, typer.Option(min=1, max=65535, help="The stand-in proxy's port.")] = 8016,
) -> None:
    """Start everything on this machine: PostgreSQL, the stand-in proxy, the service and its worker.

    The first start makes a database in the data folder, the seven shops and shop 8, and device tokens that only the
    stand-in knows. Ctrl-C stops all of it. With DATABASE_URL set, that database is used instead.
    """
    server.run(data, port=port, sandbox_port=sandbox_port)


@app.command()
def demo(
    url: Annotated[str, typer.Option(help="The development server.")] = "http://127.0.0.1:8015",
    sandbox_url: Annotated[str, typer.Option(help="Its stand-in proxy.")] = "http://127.0.0.1:8016",
) -> None:
    """Play the main job against the running development server: seven sellers, a decline, a refund, a lost reply."""
    player.play(url, sandbox_url)


@app.command()
def licences(
    out: Annotated[Path, typer.Option(help="The document to write.")] = licences_page.DOCUMENT,
) -> None:
    """Write which licences the installed packages of requirements.lock declare."""
    out.write_text(licences_page.page(licences_page.LOCK.read_text("utf-8")), "utf-8")


@app.command()
def laws(
    out: Annotated[Path, typer.Option(help="The file to write.")] = FILE,
) -> None:
    """Write which laws the migrations make, read from a throw-away database: after every new migration."""
    out.write_text(laws_file.made(), "utf-8")


def main() -> None:
    """Run a command; an expected error is printed as one sentence."""
    try:
        app(prog_name="python -m payment_dev")
    except licences_page.LicenceError as error:
        sys.exit(str(error))
    except Exception as error:
        if (sentence := sentence_of(error)) is None:
            raise
        sys.exit(sentence)


if __name__ == "__main__":
    main()
