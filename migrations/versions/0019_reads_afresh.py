"""Never twice, whatever level of isolation a database is told to give to transactions.

An intent waits for a lock and then looks what is in its way, and each statement has to see what was committed while it
waited: that is READ COMMITTED. With ``default_transaction_isolation`` set to anything else for a role, a database or a
server, it would look with the snapshot from before the lock, find nothing, and be sent beside its like. The service asks
for READ COMMITTED in its own connections; who comes without is refused here.
"""

from alembic import op

from payment_service.postgres.schema import run_script

revision = "0019"
down_revision = "0014"
branch_labels = None
depends_on = None

AFRESH = """
CREATE OR REPLACE FUNCTION one_at_a_time(name text) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        PERFORM break_law('looks_after_the_lock', 'what is in the way can be seen in READ COMMITTED alone');
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended(name, 0));
END $$;
DO $$ BEGIN
    EXECUTE format('ALTER FUNCTION one_at_a_time(text) SET search_path = %I, pg_temp', current_schema());
END $$;
"""

AS_BEFORE = """
CREATE OR REPLACE FUNCTION one_at_a_time(name text) RETURNS void LANGUAGE sql VOLATILE AS $$
    SELECT pg_advisory_xact_lock(hashtextextended(name, 0))
$$;
DO $$ BEGIN
    EXECUTE format('ALTER FUNCTION one_at_a_time(text) SET search_path = %I, pg_temp', current_schema());
END $$;
"""


def upgrade() -> None:
    run_script(op.get_bind(), AFRESH)


def downgrade() -> None:
    run_script(op.get_bind(), AS_BEFORE)
