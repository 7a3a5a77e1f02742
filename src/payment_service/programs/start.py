"""What each program checks before it starts: the database is there, at this code's schema, and its keys open it."""

import asyncio
import contextlib
import time
from collections.abc import Iterator

from payment_service.idempotency.holding import OtherProviderError
from payment_service.observability import logs
from payment_service.observability.sentry import SentryError, sentry
from payment_service.observability.tracing import TracingError, tracing
from payment_service.postgres import schema
from payment_service.postgres.connecting import trouble_of
from payment_service.postgres.database import Database
from payment_service.postgres.guarantees import laws_off
from payment_service.postgres.rights import lacking
from payment_service.postgres.vault import VaultError
from payment_service.programs import StartError
from payment_service.services import Services, open_services
from payment_service.settings import Settings

log = logs.get_logger(__name__)

LOG_EVERY_S = 10
"""How often a program that waits for its database logs it."""


@contextlib.contextmanager
def observed(settings: Settings, process: str) -> Iterator[None]:
    """Within the block, send traces and errors where the settings say; the process dumps no core.

    Raises:
        StartError: when they cannot.
    """
    _dump_no_core()
    dsn = settings.sentry_dsn.get_secret_value() if settings.sentry_dsn else None
    try:
        with (
            sentry(dsn, process),
            tracing(settings.otel_exporter_otlp_endpoint, settings.trace_headers, process),
        ):
            yield
    except (SentryError, TracingError) as error:
        raise StartError(str(error)) from error


def _dump_no_core() -> None:
    """Write no memory to the disk when this process crashes: every key and token is in it, in the clear."""
    with contextlib.suppress(ImportError):  # Windows has no such limit
        import resource  # noqa: PLC0415 - as above

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


async def check_database(settings: Settings, database: Database | None = None) -> None:
    """Check the database, after waiting a while if it is away. Closes it.

    Raises:
        StartError: when it is not at the schema that this code needs, its sessions are shared and must not be, the
            role lacks a right, its laws are switched off, its payments are of another provider, or the vault cannot
            open it.
    """
    async with open_services(settings, database) as services:
        if trouble := schema.trouble(await _revision(services)):
            raise StartError(trouble)
        await check_laws(services)
        await check_rights(services)
        await check_provider(services)
        try:
            unreadable = await services.check_secrets()
        except VaultError as error:
            raise StartError(
                "The ENCRYPTION_KEYS do not open the device tokens in the database: use the keys that wrote them. "
                "Where the only one is lost: payment-service shops set-token."
            ) from error
        if unreadable:
            log.error("device tokens cannot be decrypted: these shops take no payments", shops=unreadable)


async def check_rights(services: Services) -> None:
    """Check that the role may write all that the service writes.

    Raises:
        StartError: when it may not.
    """
    async with services.database.reading() as session:
        lacks = await lacking(session)
    if lacks:
        raise StartError(
            f"The user of DATABASE_URL lacks {', '.join(lacks[:5])}{', ...' if len(lacks) > 5 else ''}: "
            "as the owner of the database, run the GRANTs of docs/deploy.md, 'Roles of the database'."
        )


async def check_laws(services: Services) -> None:
    """Check that the database enforces its rules.

    Raises:
        StartError: when it does not.
    """
    async with services.database.reading() as session:
        off = await laws_off(session)
    if off:
        raise StartError(f"The database does not enforce its laws: {off}. payment-service doctor tells more.")


async def check_provider(services: Services) -> None:
    """Check that the database's payments are of this provider.

    Raises:
        StartError: when it is another one.
    """
    try:
        await services.holding.check_provider()
    except OtherProviderError as error:
        raise StartError(str(error)) from error


async def _revision(services: Services) -> str | None:
    """The schema that the database is at."""
    give_up_at = time.monotonic() + services.settings.database_wait_s
    log_at = 0.0
    while True:
        try:
            await services.database.check_sessions()
            return await schema.current(services.database)
        except Exception as error:
            trouble = trouble_of(error)
            if trouble is None:
                raise
            if not trouble.may_pass or time.monotonic() >= give_up_at:
                raise StartError(trouble.sentence) from error
        if time.monotonic() >= log_at:
            log_at = time.monotonic() + LOG_EVERY_S
            log.warning("waiting for the database", why=trouble.sentence)
        await asyncio.sleep(min(1, services.settings.database_wait_s))
