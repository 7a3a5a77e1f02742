"""A device token was registered for one BIN, and stays with it.

A shop whose BIN was changed alone kept the token of the seller before: every payment went out under the new BIN with
the old seller's token. No public text of Kaspi's says that such a pair is refused. Rows that are there keep what they
have: only who changes a BIN or a token is asked.
"""

from alembic import op
from sqlalchemy import text

from payment_service.postgres.schema import pinned, run_script

revision = "0022"
down_revision = "0020"
branch_labels = None
depends_on = None

TOKENS = """
CREATE FUNCTION token_is_of_its_bin() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND (NEW.organization_bin, NEW.device_token_id) = (OLD.organization_bin, OLD.device_token_id)
    THEN
        RETURN NULL;
    END IF;
    IF EXISTS (
        SELECT FROM payment_config_history
        WHERE device_token_id = NEW.device_token_id AND organization_bin <> NEW.organization_bin
    ) THEN
        PERFORM break_law('token_of_its_bin', 'a device token stays with the BIN that it was registered for');
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER payment_config_token_of_its_bin AFTER INSERT OR UPDATE ON payment_config
    FOR EACH ROW WHEN (NEW.device_token_id IS NOT NULL) EXECUTE FUNCTION token_is_of_its_bin();
"""


def upgrade() -> None:
    for part in (TOKENS, pinned("token_is_of_its_bin")):
        run_script(op.get_bind(), part)


def downgrade() -> None:
    op.execute(text("SELECT break_law('no_way_back', 'money could go out with the token of another seller')"))
