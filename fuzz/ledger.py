"""Did a call reach the provider from a request that was refused? Holds the stand-in's ledger against the answers."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final

import asyncpg

_SENT: Final = frozenset({(200, None), (202, None), (422, "payment_rejected"), (422, "refund_rejected")})
"""How a request that reached the provider may be answered, when the stand-in is healthy."""

_PAYMENTS = """
    SELECT p.id, p.external_id, p.short_code, p.organization_bin, l.request_id FROM payment p
    JOIN payment_log l ON l.payment_id = p.id AND l.operation_type IN ('create', 'create-link')
"""
_REFUNDS = """
    SELECT p.external_id, p.organization_bin, r.amount, l.request_id FROM refund r
    JOIN payment p ON p.id = r.payment_id
    JOIN payment_log l ON l.refund_id = r.id AND l.operation_type = 'refund'
"""


async def strays(
    connection: asyncpg.Connection, ledger: Sequence[Mapping[str, Any]], answers: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Calls to the provider that no request accounts for, or only one that was refused."""
    told = {answer["id"]: (answer["status"], answer["code"]) for answer in answers}
    named = {word for answer in answers for word in answer.get("words", ())}
    payments = _by(await connection.fetch(_PAYMENTS), "short_code")
    refunds = _by(await connection.fetch(_REFUNDS), "external_id", "amount")
    # What is settled by hand is named by our id.
    named |= {row["external_id"] for rows in payments.values() for row in rows if str(row["id"]) in named}
    found = []
    for entry in ledger:
        if entry["op"] == "status":
            if entry["external_id"] not in named:
                found.append(f"a status was asked for that no good request names: {entry}")
            continue
        if entry["op"] == "refund":
            tiyn = int(entry["amount"].replace(".", ""))
            rows = refunds[entry["external_id"], tiyn]
        else:
            rows = payments[(entry["message"].rpartition("#")[2],)]
        row = rows.pop() if rows else None  # each row accounts for one call
        if row is None:
            found.append(f"no row: {entry}")
        elif told.get(row["request_id"]) not in _SENT:
            found.append(f"answered {told.get(row['request_id'])}, yet it was sent: {entry}")
        elif row["organization_bin"] != entry["organization_bin"]:
            found.append(f"not the BIN of the row, {row['organization_bin']}: {entry}")
    return found


def _by(rows: Sequence[asyncpg.Record], *columns: str) -> defaultdict[tuple[Any, ...], list[asyncpg.Record]]:
    found = defaultdict(list)
    for row in rows:
        found[tuple(row[column] for column in columns)].append(row)
    return found
