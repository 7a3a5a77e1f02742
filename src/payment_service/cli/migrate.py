"""``payment-service migrate``."""

import typer

from payment_service.observability import logs
from payment_service.postgres import migrating, schema
from payment_service.settings import load

app = typer.Typer()


@app.command()
def migrate() -> None:
    """Bring the database to the newest schema. Safe to run twice, and from several machines at once."""
    settings = load()
    logs.configure(readable=True, level="WARNING")
    migrating.migrate(settings.database_url.get_secret_value())
    typer.echo(f"The database is at schema {schema.head()}.")
