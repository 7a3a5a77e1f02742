"""Keys that people make in the console: a form stands for one key, however often it is sent."""

from alembic import op

from payment_service.postgres.schema import run_script

revision = "0017"
down_revision = "0014"
branch_labels = None
depends_on = None

ONCE = """
ALTER TABLE api_key ADD COLUMN once uuid CONSTRAINT api_key_once UNIQUE;
"""


def upgrade() -> None:
    run_script(op.get_bind(), ONCE)


def downgrade() -> None:
    run_script(op.get_bind(), "ALTER TABLE api_key DROP COLUMN once;")
