"""``payment-service openapi``: the document that clients are generated from."""

import json

import typer

from payment_service.api.app import document

app = typer.Typer()


@app.command()
def openapi() -> None:
    """Print the OpenAPI document, from which clients are generated.

    It needs neither settings nor a database.
    """
    typer.echo(json.dumps(document(), ensure_ascii=False, indent=2))
