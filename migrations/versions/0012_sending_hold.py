"""Nothing is sent from a database that may not hold all that was committed to it.

Rows are the only memory of what was sent. A restored backup, a replica that was promoted without its primary's last
rows, a copy of the production database: each has forgotten payments, and would send them again, or by a route that was
changed meanwhile. PostgreSQL tells all three: a copy that was loaded from a dump has another system identifier, and a
server that was promoted or restored to a moment has another timeline. (A copied disk that starts by itself looks like
the original; a person says ``payment-service sending hold`` before it starts to serve.)

``sending_hold`` is only added to, and its newest row counts.
"""

from alembic import op
from sqlalchemy import text

from payment_service.postgres.schema import run_script

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

HOLD = """
CREATE FUNCTION this_system() RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT system_identifier FROM pg_control_system()
$$;
-- As the next write-ahead record will be written; the control file lags behind a promotion.
CREATE FUNCTION this_timeline() RETURNS integer LANGUAGE sql STABLE AS $$
    SELECT ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::integer
$$;

CREATE TABLE sending_hold (
    id serial PRIMARY KEY,
    created_at timestamptz NOT NULL DEFAULT now(),
    actor varchar(64) NOT NULL,
    is_held boolean NOT NULL,
    system_identifier bigint NOT NULL DEFAULT this_system(),
    timeline integer NOT NULL DEFAULT this_timeline(),
    -- Replication is synchronous: a replica that is promoted has every row.
    replicas_have_all boolean NOT NULL DEFAULT false,
    reason varchar(500) NOT NULL CONSTRAINT sending_hold_has_reason CHECK (btrim(reason) <> '')
);
CREATE TRIGGER sending_hold_insert_only BEFORE UPDATE OR DELETE ON sending_hold
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER sending_hold_no_truncate BEFORE TRUNCATE ON sending_hold
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- Why nothing may be sent; NULL when it may.
CREATE FUNCTION sending_held_because() RETURNS text LANGUAGE plpgsql STABLE AS $$
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
    END IF;
    RETURN NULL;
END $$;

-- What was sent already is written down whatever the database is; ``restoring`` is said for one transaction.
CREATE FUNCTION sending_is_not_held() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('payment_service.restoring', true) IS DISTINCT FROM 'on'
       AND sending_held_because() IS NOT NULL THEN
        PERFORM break_law('sending_is_not_held', 'nothing is sent until a person has released it');
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER payment_sending_is_not_held BEFORE INSERT ON payment
    FOR EACH ROW WHEN (NEW.state = 'sending') EXECUTE FUNCTION sending_is_not_held();
CREATE TRIGGER refund_sending_is_not_held BEFORE INSERT ON refund
    FOR EACH ROW WHEN (NEW.state = 'sending') EXECUTE FUNCTION sending_is_not_held();

INSERT INTO sending_hold (actor, is_held, reason)
    VALUES ('migration', false, 'the database in which the record of this begins');

CREATE FUNCTION sending_hold_is_audited() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM payment_log
        WHERE operation_type = CASE WHEN NEW.is_held THEN 'sending-hold' ELSE 'sending-release' END
          AND created_at = now() AND actor = NEW.actor AND reason = NEW.reason AND source = 'service'
    ) THEN
        PERFORM break_law('change_is_audited', 'a change needs its audit entry in the same transaction');
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER sending_hold_is_audited AFTER INSERT ON sending_hold
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION sending_hold_is_audited();
"""

PATHS = """
-- As 0008 says: a law reads the tables that it was made for.
DO $$
DECLARE
    law regprocedure;
BEGIN
    FOR law IN
        SELECT oid::regprocedure FROM pg_proc
        WHERE pronamespace = current_schema()::regnamespace AND proname IN (
            'this_system', 'this_timeline', 'sending_held_because', 'sending_is_not_held', 'sending_hold_is_audited')
    LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = %I, pg_temp', law, current_schema());
    END LOOP;
END $$;
"""


def upgrade() -> None:
    for part in (HOLD, PATHS):
        run_script(op.get_bind(), part)


def downgrade() -> None:
    op.execute(text("SELECT break_law('no_way_back', 'who released what is part of the record')"))
