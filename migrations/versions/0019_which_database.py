"""Never twice, whatever level of isolation the database gives, and from whatever dump it was loaded.

An intent waits for a lock and then looks what is in its way, and each statement has to see what was committed while
it waited: that is READ COMMITTED. With ``default_transaction_isolation`` set to anything else for a role, a database or
a server, it would look with the snapshot from before the lock, find nothing, and be sent beside its like. The service
asks for READ COMMITTED in its own connections; who comes without is refused here.

A dump that is loaded into the server that it came from, and a copy that is made in the same server, have its system
identifier and its timeline. What tells them is what PostgreSQL numbers anew: a copy is another database, and what a
dump makes is another table. No restart, upgrade in place, VACUUM or promotion changes those numbers.
"""

from alembic import op
from sqlalchemy import text

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

DATABASE = """
-- Which database this is within its server, and whether its tables are those that were made first.
CREATE FUNCTION this_database() RETURNS text LANGUAGE sql STABLE AS $$
    SELECT (SELECT oid FROM pg_database WHERE datname = current_database()) || '/' || to_regclass('sending_hold')::oid
$$;
DO $$ BEGIN
    EXECUTE format('ALTER FUNCTION this_database() SET search_path = %I, pg_temp', current_schema());
END $$;

-- What was released before is of the database as it is now.
ALTER TABLE sending_hold ADD COLUMN database varchar(21) NOT NULL DEFAULT this_database();

CREATE OR REPLACE FUNCTION sending_held_because() RETURNS text LANGUAGE plpgsql STABLE AS $$
DECLARE
    latest sending_hold%ROWTYPE;
BEGIN
    SELECT * INTO latest FROM sending_hold ORDER BY id DESC LIMIT 1;
    IF NOT FOUND OR latest.is_held THEN
        RETURN 'held';
    ELSIF latest.system_identifier <> this_system() THEN
        RETURN 'other_system';
    ELSIF latest.timeline <> this_timeline() AND NOT latest.replicas_have_all THEN
        RETURN 'other_timeline';
    ELSIF latest.database IS DISTINCT FROM this_database() THEN
        RETURN 'other_database';
    END IF;
    RETURN NULL;
END $$;
DO $$ BEGIN
    EXECUTE format('ALTER FUNCTION sending_held_because() SET search_path = %I, pg_temp', current_schema());
END $$;
"""


def upgrade() -> None:
    for part in (AFRESH, DATABASE):
        run_script(op.get_bind(), part)


def downgrade() -> None:
    op.execute(text("SELECT break_law('no_way_back', 'which database was released would be forgotten')"))
