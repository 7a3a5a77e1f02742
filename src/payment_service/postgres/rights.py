"""What the role of the service may do: docs/deploy.md has the same as GRANTs, and a test compares the two.

Without one of them a payment may be sent whose outcome cannot be written. A release can need another one, so they
are checked before anything starts.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from payment_service.postgres.sessions import HOME

_COLUMNS_OF_A_LINE: Final = """shop_id organization_bin operation_type external_id amount status state error_message
    provider payment_id refund_id actor source request_id created_at reason report_id subject content"""
_RIGHTS: Final = {
    # Added to, and nothing else: the whole row, or these columns of it.
    "audit_seal audit_check payment_config_history delivery_try sending_hold": ("INSERT", ""),
    "payment_log": ("", f"INSERT {_COLUMNS_OF_A_LINE}"),
    # Added to, and changed in these columns.
    "device_token fingerprint_key": ("INSERT", "UPDATE ciphertext"),
    "api_key": ("INSERT", "UPDATE revoked_at"),
    "api_key_use person_link": ("INSERT", "UPDATE used_at"),
    "idempotency_claim": ("INSERT", "UPDATE operation_id"),
    "event": ("INSERT", "UPDATE passed_on_at"),
    "person": ("INSERT", "UPDATE role shops refund_limit password_hash password_set_at disabled_at"),
    "route_change": ("INSERT", "UPDATE state decided_by decided_at"),
    "same_seller": ("INSERT", "UPDATE is_same"),
    "person_session": ("INSERT", "UPDATE proved_at ended_at"),
    "payment refund payment_config webhook_endpoint event_delivery": ("INSERT UPDATE", ""),
    "notify_chat notify_binding notify_message notify_pace": ("INSERT UPDATE", ""),
    "worker_tick": ("INSERT DELETE", "UPDATE ticked_at"),
    "sign_in_limit": ("INSERT UPDATE DELETE", ""),
}
_LACKING: Final = text("""
    SELECT wanted.privilege || ' on ' || wanted.name || coalesce(' (' || wanted.of_column || ')', '')
    FROM unnest(cast(:privileges AS text[]), cast(:names AS text[]), cast(:columns AS text[]))
        WITH ORDINALITY AS wanted (privilege, name, of_column, place)
    WHERE NOT CASE WHEN of_column IS NULL THEN has_table_privilege(name, privilege)
        ELSE has_column_privilege(name, of_column, privilege) END
    ORDER BY wanted.place
""")
_LACKING_OF_ALL: Final = text(f"""
    SELECT CASE relkind WHEN 'S' THEN 'USAGE on ' ELSE 'SELECT on ' END || relname FROM pg_class
    WHERE relnamespace = {HOME}
        AND relname NOT LIKE 'pgqueuer%' AND NOT relispartition
        AND CASE WHEN relkind IN ('r', 'p', 'v') THEN NOT has_table_privilege(oid, 'SELECT')
            WHEN relkind = 'S' THEN NOT has_sequence_privilege(oid, 'USAGE') ELSE false END
    UNION ALL SELECT 'EXECUTE on make_months' WHERE NOT has_function_privilege('make_months(text, integer)', 'EXECUTE')
    ORDER BY 1
""")  # noqa: S608 - only text of this package
"""Some sequences are only read, which takes the same right."""


class Right(NamedTuple):
    """One thing that may be done with a table, or with one column of it."""

    privilege: str
    table: str
    column: str | None = None


def rights() -> Iterator[Right]:
    """Every right that the service needs, beside reading all tables."""
    for tables, (of_table, of_columns) in _RIGHTS.items():
        privilege, *columns = of_columns.split() or [""]
        for table in tables.split():
            yield from (Right(one, table) for one in of_table.split())
            yield from (Right(privilege, table, column) for column in columns)


async def lacking(session: AsyncSession) -> list[str]:
    """What the role of this session may not do and must, each as ``INSERT on event``; none when all is granted."""
    privileges, names, columns = zip(*rights(), strict=True)
    wanted = {"privileges": list(privileges), "names": list(names), "columns": list(columns)}
    return [*(await session.scalars(_LACKING_OF_ALL)), *(await session.scalars(_LACKING, wanted))]
