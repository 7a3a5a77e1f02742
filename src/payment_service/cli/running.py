"""Runs a command as the person at the command line, with as much of the service as it needs."""

import asyncio
import getpass
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import typer

from payment_service.cli.loading import load as load_module
from payment_service.observability import logs
from payment_service.observability.context import Origin, origin
from payment_service.postgres.database import Database
from payment_service.postgres.vault import Vault
from payment_service.settings import Settings, load, load_of_development_server

if TYPE_CHECKING:
    from payment_service.services import Services

Result = TypeVar("Result")


def with_settings(action: Callable[[Settings], Awaitable[Result]]) -> Result:
    """Read the settings, and run the work with them."""
    settings = load_of_development_server()
    if settings is None:
        settings = load()
    else:
        typer.echo("With the development server's settings: neither the environment nor .env has any.", err=True)
    logs.configure(readable=True, level="WARNING")

    async def work(settings: Settings) -> Result:
        origin.set(Origin(f"cli:{getpass.getuser()}"))
        return await action(settings)

    return asyncio.run(work(settings))


def with_database(action: Callable[[Database], Awaitable[Result]]) -> Result:
    """Run work that needs the database, and no service that makes outgoing calls."""
    return with_secrets(lambda database, _vault: action(database))


def with_secrets(action: Callable[[Database, Vault], Awaitable[Result]]) -> Result:
    """Run work that needs the database and the vault of its secrets."""

    async def work(settings: Settings) -> Result:
        database = Database(settings.session_url, pool_size=settings.database_pool_size)
        try:
            return await action(database, Vault([key.get_secret_value() for key in settings.encryption_keys]))
        finally:
            await database.close()

    return with_settings(work)


def with_services(action: Callable[["Services"], Awaitable[Result]], *, asks_provider: bool = False) -> Result:
    """Run work that needs the composed services, which are imported here: ``--help`` needs none.

    ``asks_provider``: the provider's answers are written, so it must be the provider of this database.
    """
    composition = load_module("payment_service.services")
    start = load_module("payment_service.programs.start") if asks_provider else None

    async def work(settings: Settings) -> Result:
        async with composition.open_services(settings) as services:
            if start is not None:
                await start.check_provider(services)
            return await action(services)

    return with_settings(work)
