"""What people do in the console: a form makes one key, and changes of a route that wait are events."""

from alembic import op
from sqlalchemy import text

from payment_service.postgres.schema import run_script

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

ONCE = """
ALTER TABLE api_key ADD COLUMN once uuid;
CREATE UNIQUE INDEX api_key_once ON api_key (once);
"""


EVENTS = """
ALTER TABLE event DROP CONSTRAINT event_type_check;
ALTER TABLE event ADD CONSTRAINT event_type_check CHECK (type IN (
    'payment.pending', 'payment.paid', 'payment.failed', 'payment.cancelled', 'payment.unknown',
    'payment.late_success', 'refund.succeeded', 'refund.failed', 'refund.unknown', 'route.proposed', 'route.refused',
    'route.changed', 'endpoint.disabled', 'endpoint.recovered', 'test'));
"""


def upgrade() -> None:
    for part in (ONCE, EVENTS):
        run_script(op.get_bind(), part)


def downgrade() -> None:
    op.execute(text("SELECT break_law('no_way_back', 'events are part of the record')"))
