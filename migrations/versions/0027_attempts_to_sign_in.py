"""Attempts to sign in are counted where all processes see them."""

from alembic import op
from sqlalchemy import text

from payment_service.postgres.schema import run_script

revision = "0027"
down_revision = "0026"
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


def upgrade() -> None:
    run_script(op.get_bind(), LIMITS)


def downgrade() -> None:
    op.execute(text("SELECT break_law('no_way_back', 'attempts to sign in are counted there')"))
