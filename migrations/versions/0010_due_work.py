"""Events are announced by whoever wrote them, after the commit: a NOTIFY inside it locks the whole cluster."""

from alembic import op
from sqlalchemy import text

from payment_service.postgres.schema import run_script

revision = "0010"
down_revision = "0008"
branch_labels = None
depends_on = None

EVENTS = """
CREATE OR REPLACE FUNCTION event_changes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' OR OLD.passed_on_at IS NOT NULL
       OR to_jsonb(NEW) - 'passed_on_at' IS DISTINCT FROM to_jsonb(OLD) - 'passed_on_at' THEN
        PERFORM break_law('event_fixed', 'an event is never changed');
    END IF;
    RETURN NEW;
END $$;
DROP TRIGGER event_fixed ON event;
CREATE TRIGGER event_fixed BEFORE UPDATE OR DELETE ON event
    FOR EACH ROW EXECUTE FUNCTION event_changes();
"""

PATHS = """
-- As 0008 says: a law reads the tables that it was made for.
DO $$
DECLARE
    law regprocedure;
BEGIN
    FOR law IN
        SELECT oid::regprocedure FROM pg_proc
        WHERE pronamespace = current_schema()::regnamespace AND prokind = 'f' AND proconfig IS NULL
          AND proname NOT LIKE 'fn_pgqueuer%'
    LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = %I, pg_temp', law, current_schema());
    END LOOP;
END $$;
"""


def upgrade() -> None:
    for part in (EVENTS, PATHS):
        run_script(op.get_bind(), part)


def downgrade() -> None:
    op.execute(text("SELECT break_law('no_way_back', 'what is due would wait for a queue that is gone')"))
