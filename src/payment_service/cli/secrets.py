"""``payment-service secrets``: the key that encrypts device tokens."""

import typer

from payment_service.cli.running import with_services
from payment_service.postgres.vault import new_key

app = typer.Typer(no_args_is_help=True)


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
    rotated, left = with_services(lambda services: services.rotate_keys())
    typer.echo(f"{rotated} device tokens are encrypted with the first key now, each bound to its row.")
    if left:
        typer.echo(f"Warning: {left} stay as they were, for none of the keys opens them.", err=True)
