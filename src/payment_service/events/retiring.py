"""Retiring: the oldest months of events leave the database, each with its deliveries and messages.

The tables stay beside the others, whole and unchangeable, until a person has dumped and dropped them.
"""

from collections.abc import Sequence
from datetime import datetime

from payment_service.events.models import Event
from payment_service.observability.context import origin
from payment_service.postgres.database import Database
from payment_service.postgres.months import detach, partitions_before


async def retirable(database: Database, *, before: datetime) -> Sequence[str]:
    """The partitions of ``event`` whose rows were all written before then, the oldest first."""
    return [name for name, _until in await partitions_before(database, Event.__tablename__, before=before)]


async def retire(database: Database, partition: str) -> None:
    """Take the oldest month of events out, as the owner of the tables; the audit log records it.

    Raises:
        NotRetired: when the database refuses it, or something else held the tables for too long.
    """
    await detach(database, partition, "SELECT retire_event_partition($1::text, $2)", partition, origin.get().actor)
