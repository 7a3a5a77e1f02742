"""``payment-service serve``."""

from typing import Annotated

import typer

from payment_service import settings
from payment_service.programs import serve as program

app = typer.Typer()


@app.command()
def serve(
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Listen here instead of on PORT.")] = None,
) -> None:
    """Serve the API. The database must be at the newest schema: run 'migrate' first."""
    found = settings.load()
    program.serve(found if port is None else found.model_copy(update={"port": port}))
