"""The list of laws that the migrations make (``payment_service/postgres/laws.txt``), read from a new database."""

import asyncio
import tempfile
from pathlib import Path

from payment_dev.postgres import EmbeddedPostgres
from payment_service.postgres import migrating
from payment_service.postgres.database import Database
from payment_service.postgres.laws import laws


def made() -> str:
    """The text of the file."""
    postgres = EmbeddedPostgres(Path(tempfile.mkdtemp(prefix="payment-service-laws-")), durable=False)
    try:
        postgres.start()
        postgres.create_database("laws")
        migrating.migrate(postgres.url("laws"))
        lines = asyncio.run(_laws(postgres.url("laws")))
    finally:
        postgres.remove()
    return "".join(f"{line}\n" for line in lines)


async def _laws(url: str) -> list[str]:
    database = Database(url, pool_size=2)
    try:
        async with database.reading() as session:
            return [*await laws(session)]
    finally:
        await database.close()
