"""Whether routing, keys, endpoints, chats and secrets match their latest audit entries.

Compared by the database function whose results were recorded: whoever can replace functions can forge this.
"""

from dataclasses import dataclass

from sqlalchemy import text

from payment_service.audit.verification import Kind, RecordBroken
from payment_service.postgres.database import Database

_COMPARED = text("""
    WITH recorded AS (
        SELECT DISTINCT ON (subject) subject, content, id FROM payment_log WHERE subject IS NOT NULL
        ORDER BY subject, id DESC
    )
    SELECT coalesce(today.subject, recorded.subject) AS subject, recorded.id,
           today.content IS NULL AS gone, today.content IS NOT DISTINCT FROM recorded.content AS same
    FROM recorded FULL JOIN audited_today AS today ON today.subject = recorded.subject
    ORDER BY same, recorded.id NULLS FIRST, subject
""")


@dataclass(frozen=True, slots=True)
class Comparison:
    """How many rows are as the record says, and the first one that is not."""

    rows: int
    problem: RecordBroken | None


async def compare(database: Database) -> Comparison:
    """Compare every row that decides who may do what with the latest entry about it, sealed or not."""
    async with database.reading() as session:
        found = list(await session.execute(_COMPARED))
    rows = sum(row.same for row in found)
    problems = (_problem(row.subject, row.id, gone=row.gone) for row in found if not row.same)
    return Comparison(rows, next(problems, None))


def _problem(subject: str, row: int | None, *, gone: bool) -> RecordBroken:
    if row is None:
        sentence = f"{subject} is there, and the record does not tell where it comes from."
        return RecordBroken(Kind.CHANGE_NOT_RECORDED, sentence)
    what = "is gone" if gone else "holds something else"
    sentence = f"{subject} {what}, and row {row} is the last that the record tells of it."
    return RecordBroken(Kind.CHANGE_NOT_RECORDED, sentence, row=row)
