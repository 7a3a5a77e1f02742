"""Due work is rows with a time and a lease: workers claim them themselves, and no queue stands between.

Everything that the queue held follows from the rows: ``payment.next_check_at``, ``event_delivery.next_try_at`` and
``notify_chat.next_send_at``. Its tables stay where they are, for the version that still runs while this is migrated;
nothing reads them any more.

Events are announced by whoever wrote them, after the commit: a NOTIFY inside it takes a lock of the whole cluster until
the commit is flushed. A version without that is announced by nobody, and found by those who look now and then.
"""

from alembic import op
from sqlalchemy import text

from payment_service.postgres.schema import run_script

revision = "0010"
down_revision = "0009"
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

DELIVERIES = """
CREATE INDEX event_delivery_under_way ON event_delivery (trying_until) WHERE trying_until IS NOT NULL;
CREATE INDEX event_delivery_tests ON event_delivery (endpoint_id) WHERE state = 'waiting' AND type = 'test';

-- Owns deliveries that are due until their leases end: of each endpoint and in all so many at a time, for all workers
-- together. Volatile on purpose, as in 0009: what is looked up after the lock is looked up freshly.
CREATE FUNCTION claim_deliveries(
    at_most integer, per_endpoint integer, in_all integer, lease_s float8, order_wait_s float8, moment timestamptz
) RETURNS TABLE (
    id uuid, lease_end timestamptz, claimed_at timestamptz, tries integer, event_id uuid, type varchar,
    version integer, data jsonb, created_at timestamptz, endpoint_id uuid, url varchar, secret_ciphertext text,
    previous_secret_ciphertext text, previous_secret_until timestamptz, headers_ciphertext text
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    present timestamptz;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('claim_deliveries'));
    present := coalesce(moment, clock_timestamp());
    RETURN QUERY
    WITH under_way AS (
        SELECT d.endpoint_id, count(*)::integer AS calls FROM event_delivery AS d
        WHERE d.trying_until > present GROUP BY d.endpoint_id
    ), due AS (
        SELECT found.id, found.next_try_at
        FROM webhook_endpoint AS e LEFT JOIN under_way AS u ON u.endpoint_id = e.id
        CROSS JOIN LATERAL (
            SELECT d.id, d.next_try_at FROM event_delivery AS d
            WHERE d.endpoint_id = e.id AND d.state = 'waiting' AND d.next_try_at <= present
              AND (d.trying_until IS NULL OR d.trying_until <= present)
              -- A later event of an object waits a while for an earlier one.
              AND NOT (d.created_at > present - make_interval(secs => order_wait_s) AND EXISTS (
                SELECT FROM event_delivery AS earlier
                WHERE earlier.endpoint_id = d.endpoint_id AND earlier.subject_id = d.subject_id
                  AND earlier.state = 'waiting'
                  AND (earlier.version, earlier.event_id) < (d.version, d.event_id)))
            ORDER BY d.next_try_at, d.id LIMIT greatest(per_endpoint - coalesce(u.calls, 0), 0)
            FOR UPDATE SKIP LOCKED
        ) AS found
        WHERE e.is_active
        UNION ALL
        SELECT tested.id, tested.next_try_at
        FROM webhook_endpoint AS e
        CROSS JOIN LATERAL (
            SELECT d.id, d.next_try_at FROM event_delivery AS d
            WHERE d.endpoint_id = e.id AND d.state = 'waiting' AND d.type = 'test' AND d.next_try_at <= present
              AND (d.trying_until IS NULL OR d.trying_until <= present)
            ORDER BY d.next_try_at, d.id LIMIT per_endpoint FOR UPDATE SKIP LOCKED
        ) AS tested
        WHERE NOT e.is_active
    ), taken AS (
        UPDATE event_delivery AS d SET trying_until = present + make_interval(secs => lease_s)
        WHERE d.id IN (
            SELECT due.id FROM due ORDER BY due.next_try_at, due.id
            LIMIT greatest(least(at_most, in_all - (SELECT coalesce(sum(calls), 0) FROM under_way)), 0))
        RETURNING d.*
    )
    SELECT t.id, t.trying_until, present, t.tries, t.event_id, t.type, t.version, event.data, event.created_at, e.id,
        e.url, e.secret_ciphertext, e.previous_secret_ciphertext, e.previous_secret_until, e.headers_ciphertext
    FROM taken AS t JOIN event ON event.id = t.event_id JOIN webhook_endpoint AS e ON e.id = t.endpoint_id
    ORDER BY t.next_try_at, t.id;
END $$;
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
    for part in (EVENTS, DELIVERIES, PATHS):
        run_script(op.get_bind(), part)


def downgrade() -> None:
    op.execute(text("SELECT break_law('no_way_back', 'what is due would wait for a queue that holds nothing of it')"))
