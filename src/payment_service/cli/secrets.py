"""``payment-service secrets``: the key that encrypts device tokens."""

import typer

from payment_service.cli.output import in_house
from payment_service.postgres.vault import new_key
from payment_service.services import Services

app = typer.Typer(no_args_is_help=True, help="The key that encrypts device tokens at rest.")


@app.command("new-key")
def print_new_key() -> None:
    """Print a fresh key for ENCRYPTION_KEYS."""
    typer.echo(new_key())


@app.command()
def rotate() -> None:
    """Encrypt every secret anew with the first of the ENCRYPTION_KEYS, while the service runs.

    To change the key, set ENCRYPTION_KEYS of every process in turn to OLD,NEW (all can read what the new one will
    write), then to NEW,OLD; run this; then set it to NEW.
    """

    async def work(services: Services) -> int:
        return await services.rotate_keys()

    typer.echo(f"{in_house(work)} device tokens are encrypted with the first key now, each bound to its row.")
