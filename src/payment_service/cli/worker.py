"""``payment-service worker``."""

import asyncio

import typer

from payment_service.observability import logs
from payment_service.programs import work
from payment_service.settings import load

app = typer.Typer()


@app.command()
def worker() -> None:
    """Poll payments and deliver events in the background. Any number of workers may run, on any machines."""
    settings = load()
    logs.configure(readable=settings.debug, level=settings.log_level)
    asyncio.run(work.work(settings))
