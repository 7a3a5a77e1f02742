"""What PostgreSQL guarantees as it is set up: that rules are enforced, commits stay, a backup can be made.

Its administrator can take each of these away without this service noticing. Here they are only checked.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from payment_service.postgres.database import Database
from payment_service.postgres.laws import added, missing
from payment_service.postgres.sessions import HOME, SETTINGS

_WANTED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "default_transaction_isolation": SETTINGS["default_transaction_isolation"],
        "synchronous_commit": SETTINGS["synchronous_commit"],
        "TimeZone": "UTC",
    }
)
"""What a session of the service must have, whatever the server's own settings."""
_OF_THE_SERVER: Final = ("fsync", "full_page_writes", "wal_level", "autovacuum", "data_directory")
_SETTINGS: Final = text("SELECT name, setting FROM pg_settings WHERE name = ANY(:names)")
_ROLE: Final = text("SELECT current_setting('session_replication_role')")
_SCHEMA: Final = text(f"SELECT {HOME}")
"""The schema of the service's functions: they use its tables, whatever the search path is."""
_OVERLAID: Final = text("""
    WITH overlaid AS (
        SELECT oid, relname AS name FROM pg_class
        WHERE relnamespace = :home AND relkind IN ('r', 'p', 'v') AND NOT pg_table_is_visible(oid)
        UNION ALL SELECT oid, proname FROM pg_proc WHERE pronamespace = :home AND NOT pg_function_is_visible(oid)
    )
    SELECT DISTINCT name FROM overlaid
    WHERE NOT EXISTS (SELECT FROM pg_depend WHERE objid = overlaid.oid AND deptype = 'e') ORDER BY name
""")
"""But for what extensions put there, such as pgcrypto's gen_random_uuid, which PostgreSQL has itself by now."""
_FILTERED: Final = text("""
    SELECT relname FROM pg_class WHERE relnamespace = :home AND relkind IN ('r', 'p') AND row_security_active(oid)
    ORDER BY relname
""")
_DISABLED: Final = text("""
    SELECT DISTINCT relname FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid
    WHERE relnamespace = :home AND tgenabled IN ('D', 'R') ORDER BY relname
""")
_BEHIND: Final = text("""
    SELECT sequence || ' at ' || coalesce(last_value, 0) || ' (its table has ' || highest || ')'
    FROM (VALUES
        ('payment_log_id_seq', (SELECT max(id) FROM payment_log)),
        ('sending_hold_id_seq', (SELECT max(id) FROM sending_hold)),
        ('device_token_id_seq', (SELECT max(id) FROM device_token)),
        ('api_key_id_seq', (SELECT max(id) FROM api_key)),
        ('person_id_seq', (SELECT max(id) FROM person)), ('audit_check_id_seq', (SELECT max(id) FROM audit_check))
    ) AS ids (sequence, highest)
    JOIN pg_sequences ON sequencename = sequence AND schemaname = (SELECT nspname FROM pg_namespace WHERE oid = :home)
    WHERE highest > coalesce(last_value, 0)
        AND has_sequence_privilege(format('%I.%I', schemaname, sequencename), 'USAGE, SELECT') ORDER BY sequence
""")
"""Logical replication and a dump of single tables bring rows and leave sequences where they were. What is written then
is refused, after its payment was sent; in another month it stands below ids that are sealed, where no seal comes.
Without the right to it a sequence looks as if it had not been used."""
_UNLOGGED: Final = text("""
    SELECT relname FROM pg_class WHERE relnamespace = :home AND relkind = 'r' AND relpersistence = 'u'
        AND relname !~ 'pgqueuer' ORDER BY relname
""")
_LETTERS: Final = text("""
    SELECT format('%s, and this server has %s', datcollversion, pg_database_collation_actual_version(oid))
    FROM pg_database WHERE datname = current_database() AND NOT letters_are_in_order()
""")
"""An upgrade of the operating system, or a replica on another one, sorts texts in another way. An index is searched by
that order: a payment that is there is not found by its key, and is sent again."""
_UNFROZEN: Final = text("SELECT max(age(datfrozenxid)) FROM pg_database")
_SIZE: Final = text("SELECT pg_database_size(current_database())")


@dataclass(frozen=True, slots=True)
class Guarantees:
    """How PostgreSQL is set up, as a session of the service sees it."""

    laws_off: str | None
    """Why the database does not enforce its laws in this session, as a sentence; none when it does."""
    added: Sequence[str]
    """What others have put on the tables, which may drop, change or refuse what is written."""
    wrong_settings: Mapping[str, tuple[str, str]]
    """Settings of the session that are not as they must be: what they are, and what they must be."""
    forgets_by: tuple[str, ...]
    """Settings by which a crash of the machine loses what was committed."""
    wal_level: str
    vacuums: bool
    """Whether it cleans up by itself (autovacuum)."""
    unfrozen: int
    """Transactions since the oldest one that a row still names. PostgreSQL takes no writes at 2,100 million."""
    size: int
    """Of the database, in bytes."""
    data_directory: str | None
    """On the server's machine; none for a role that may not know it."""


async def guarantees(database: Database) -> Guarantees:
    """Ask what holds now, in a session as the database's statements have it."""
    async with database.reading() as session:
        names = [*_WANTED, *_OF_THE_SERVER]
        rows = await session.execute(_SETTINGS, {"names": names})
        found: dict[str, str] = {row.name: row.setting for row in rows}
        home = await session.scalar(_SCHEMA)
        return Guarantees(
            laws_off=await _laws_off(session, home),
            added=[] if home is None else await added(session),  # an empty database has no version
            wrong_settings={name: (found[name], wanted) for name, wanted in _WANTED.items() if found[name] != wanted},
            forgets_by=tuple(name for name in ("fsync", "full_page_writes") if found[name] == "off"),
            wal_level=found["wal_level"],
            vacuums=found["autovacuum"] == "on",
            unfrozen=int((await session.execute(_UNFROZEN)).scalar_one()),
            size=int((await session.execute(_SIZE)).scalar_one()),
            data_directory=found.get("data_directory"),
        )


async def laws_off(session: AsyncSession) -> str | None:
    """Why the database does not guard the record in this session, as a sentence; none when it does."""
    return await _laws_off(session, await session.scalar(_SCHEMA))


async def _laws_off(session: AsyncSession, home: int | None) -> str | None:
    role = await session.scalar(_ROLE)
    if role != "origin":
        return f"session_replication_role is {role}: no trigger fires, and nothing guards the record"
    if home is None:
        return "the search path does not lead to payment_intend"
    for ask, sentence in (
        (_OVERLAID, "the search path leads to others of the same name instead of"),
        (_FILTERED, "row-level security keeps rows from this role in"),
        (_DISABLED, "triggers are switched off on"),
        (_UNLOGGED, "a crash of the server empties what is UNLOGGED:"),
        (_BEHIND, "ids were given already by the sequence"),
        (_LETTERS, "REINDEX DATABASE and REFRESH COLLATION VERSION are due: its indexes are of collation version"),
    ):
        if found := list(await session.scalars(ask, {"home": home})):
            return f"{sentence} {', '.join(found)}"
    if lacking := await missing(session):
        return f"it lacks, or has in another form, {', '.join(lacking[:5])}{', ...' if len(lacking) > 5 else ''}"
    return None
