"""What waits for an endpoint that is off makes no claim slower, and keeps no month from leaving.

A delivery waits for as long as its endpoint is off, which may be for good. Claims look into the months since the oldest
delivery that waits: with one such row from five years ago each claim looked into sixty partitions for each endpoint
(144 ms instead of 1, and others wait for it). And that month and all after it could never leave the database.
"""

from alembic import op
from sqlalchemy import text

from payment_service.postgres.schema import rewritten, run_script

revision = "0031"
down_revision = "0030"
branch_labels = None
depends_on = None

CLAIMS = rewritten(
    "claim_deliveries",
    {
        "    oldest uuid;\n": """    oldest uuid;
    active uuid[] := ARRAY(SELECT id FROM webhook_endpoint WHERE is_active);
""",
        "WHERE d.state = 'waiting' ORDER BY d.event_id LIMIT 1;": """WHERE d.state = 'waiting'
        AND (d.endpoint_id = ANY (active) OR d.type = 'test' OR d.trying_until > present)
    ORDER BY d.event_id LIMIT 1;""",
    },
)
RETIRING = rewritten(
    "retire_event_partition",
    {
        "OR EXISTS (SELECT FROM %I WHERE state = 'waiting')": (
            "OR EXISTS (SELECT FROM %I AS d WHERE state = 'waiting' AND EXISTS (\n"
            "                SELECT FROM webhook_endpoint AS e WHERE e.id = d.endpoint_id AND e.is_active))"
        )
    },
)


def upgrade() -> None:
    for part in (CLAIMS, RETIRING):
        run_script(op.get_bind(), part)


def downgrade() -> None:
    op.execute(text("SELECT break_law('no_way_back', 'months may have left that the version before keeps')"))
