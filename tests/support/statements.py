"""What the database is asked meanwhile, on either kind of connection."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from sqlalchemy import event

from payment_service.postgres.database import Database
from payment_service.postgres.statement_pool import StatementPool

Asked = tuple[str, Sequence[Any]]
"""A statement and its parameters."""


@contextmanager
def asked(database: Database) -> Iterator[list[Asked]]:
    """The statements that are run while in the block."""
    statements: list[Asked] = []
    fetch = StatementPool.fetch

    async def noted(self: StatementPool, query: str, *args: Any, **how: Any) -> Any:
        statements.append((query, args))
        return await fetch(self, query, *args, **how)

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_more: Any) -> None:
        statements.append((statement, parameters))

    engine = database.engine.sync_engine
    event.listen(engine, "before_cursor_execute", note)
    try:
        with patch.object(StatementPool, "fetch", noted):
            yield statements
    finally:
        event.remove(engine, "before_cursor_execute", note)
