"""When a key was last used, for people who look whether it may be ended; and refunds listed newest first."""

from alembic import op

from payment_service.postgres.schema import run_script

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

LOOKING = """
-- No part of the record: what was done with a key is there.
CREATE TABLE api_key_use (
    key_id integer PRIMARY KEY REFERENCES api_key (id),
    used_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX refund_time ON refund (created_at, id);
"""


def upgrade() -> None:
    run_script(op.get_bind(), LOOKING)


def downgrade() -> None:
    run_script(op.get_bind(), "DROP TABLE api_key_use; DROP INDEX refund_time;")
