"""Attempts to sign in are counted where all processes see them, and no endpoint's backlog keeps another one waiting.

Free places for calls went to what was due first. Several endpoints of one seller that hang and have a long backlog took
all of them, again and again. They go to the endpoint with the fewest calls first, and to what is due first among these.
"""

from alembic import op
from sqlalchemy import text

from payment_service.postgres.schema import rewritten, run_script

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None

LIMITS = """
-- No part of the record: an attempt at an account is there. A name is a digest, of an account's address or a network's.
CREATE TABLE sign_in_limit (
    name varchar(64) PRIMARY KEY,
    full_at timestamptz NOT NULL
);
CREATE INDEX sign_in_limit_full ON sign_in_limit (full_at);
"""
CLAIMS = rewritten(
    "claim_deliveries",
    {
        "SELECT found.id, found.event_id, found.next_try_at": (
            "SELECT found.id, found.event_id, found.next_try_at, coalesce(u.calls, 0)\n"
            "            + row_number() OVER (PARTITION BY e.id ORDER BY found.next_try_at, found.id) AS place"
        ),
        "SELECT tested.id, tested.event_id, tested.next_try_at": (
            "SELECT tested.id, tested.event_id, tested.next_try_at,\n"
            "            row_number() OVER (PARTITION BY e.id ORDER BY tested.next_try_at, tested.id)"
        ),
        "ORDER BY due.next_try_at, due.id": "ORDER BY due.place, due.next_try_at, due.id",
    },
)


def upgrade() -> None:
    run_script(op.get_bind(), LIMITS)
    run_script(op.get_bind(), CLAIMS)


def downgrade() -> None:
    op.execute(text("SELECT break_law('no_way_back', 'attempts to sign in are counted there')"))
