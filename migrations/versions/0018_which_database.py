"""Never twice, whatever level of isolation the database gives, and from whatever dump it was loaded.

An intent waits for a lock and then looks what is in its way, and each statement has to see what was committed while
it waited: that is READ COMMITTED. With ``default_transaction_isolation`` set to anything else for a role, a database or
a server, it would look with the snapshot from before the lock, find nothing, and be sent beside its like. The service
asks for READ COMMITTED in its own connections; who comes without is refused here.

A dump that is loaded into the server that it came from, and a copy that is made in the same server, have its system
identifier and its timeline. What tells them is what PostgreSQL numbers anew: a copy is another database, and what a
dump makes is another table. No restart, upgrade in place, VACUUM or promotion changes those numbers.

And a refund leaves what others say that they paid back of the payment: the provider would pay it back again.
"""

from alembic import op
from sqlalchemy import text

from payment_service.postgres.schema import run_script

revision = "0018"
down_revision = "0017"
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

REFUNDS = """
-- Tiyn that others say they paid back of a payment, or may have: a client that calls the provider itself, and the
-- service before this one. Not what the provider refused: what became of it stands in the message.
CREATE FUNCTION refunded_elsewhere(of_shop integer, of_provider text, of_payment text) RETURNS bigint
LANGUAGE sql STABLE AS $$
    SELECT coalesce(sum(amount), 0)::bigint FROM payment_log
    WHERE external_id = of_payment AND provider = of_provider AND shop_id = of_shop AND operation_type = 'refund'
        AND source IN ('client', 'legacy')
        AND (coalesce(error_message, '') = '' OR starts_with(error_message, 'Outcome unknown'))
$$;

CREATE OR REPLACE FUNCTION refund_intend(
    _id uuid, _payment_id uuid, _amount bigint, _caller text, _fingerprint text, _key text, _window_s float8,
    _api_key_id integer, _within_s float8
) RETURNS intent LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    claim idempotency_claim%ROWTYPE;
    paid payment%ROWTYPE;
    earlier refund%ROWTYPE;
    remainder bigint;
BEGIN
    IF NOT api_key_holds(_api_key_id) THEN
        RETURN (now(), 'api_key_revoked', NULL, NULL, NULL, NULL, NULL, NULL, NULL)::intent;
    END IF;
    IF _key IS NOT NULL THEN
        PERFORM one_at_a_time('key ' || _caller || ' ' || _key);
        SELECT * INTO claim FROM idempotency_claim WHERE caller = _caller AND idempotency_key = _key;
        IF FOUND THEN
            SELECT * INTO earlier FROM refund WHERE id = claim.operation_id;
            IF claim.fingerprint <> _fingerprint THEN
                RETURN refund_in_the_way(earlier, 'key_reused');
            ELSIF FOUND AND earlier.failure IS DISTINCT FROM 'not_sent' THEN
                RETURN refund_in_the_way(earlier, 'same_key');
            END IF;
        END IF;
    END IF;

    -- The row lock of the payment guards what is left of it, and lets equal refunds pass one at a time.
    SELECT * INTO paid FROM payment WHERE id = _payment_id FOR UPDATE;
    IF _key IS NULL THEN
        SELECT * INTO earlier FROM refund
        WHERE payment_id = _payment_id AND fingerprint = _fingerprint AND caller = _caller
            AND failure IS DISTINCT FROM 'not_sent'
        ORDER BY state NOT IN ('sending', 'unknown'), coalesce(known_at, created_at) DESC LIMIT 1;
        IF FOUND AND (earlier.state IN ('sending', 'unknown')
                OR coalesce(earlier.known_at, earlier.created_at) > now() - make_interval(secs => _window_s)) THEN
            RETURN refund_in_the_way(earlier, 'alike');
        END IF;
    END IF;
    IF paid.same_as IS NOT NULL THEN
        RETURN (now(), 'merged', paid.same_as, paid.state, NULL, NULL, NULL, NULL, NULL)::intent;
    ELSIF paid.state <> 'paid' THEN
        RETURN (now(), 'not_paid', paid.id, paid.state, NULL, NULL, NULL, NULL, NULL)::intent;
    END IF;
    remainder := paid.amount - paid.refunded_amount - paid.reserved_amount
        - refunded_elsewhere(paid.shop_id, paid.provider, paid.external_id);
    remainder := greatest(remainder, 0);
    IF remainder = 0 OR _amount > remainder THEN
        RETURN (now(), 'exceeds', paid.id, paid.state, NULL, NULL, NULL, NULL, remainder)::intent;
    END IF;
    IF NOT in_time(_within_s) THEN
        RETURN (now(), 'too_late', NULL, NULL, NULL, NULL, NULL, NULL, NULL)::intent;
    END IF;
    INSERT INTO refund (id, payment_id, amount, state, caller, fingerprint, keyed)
    VALUES (_id, _payment_id, coalesce(_amount, remainder), 'sending', _caller, _fingerprint, _key IS NOT NULL);
    UPDATE payment SET reserved_amount = reserved_amount + coalesce(_amount, remainder) WHERE id = _payment_id;
    IF _key IS NOT NULL THEN
        PERFORM claim_key(_caller, _key, _fingerprint, _id);
    END IF;
    RETURN (now(), NULL, _id, 'sending', NULL, 0, 0, NULL, coalesce(_amount, remainder))::intent;
END $$;

DO $$ BEGIN
    EXECUTE format(
        'ALTER FUNCTION refunded_elsewhere(integer, text, text) SET search_path = %I, pg_temp', current_schema());
    EXECUTE format(
        'ALTER FUNCTION refund_intend(uuid, uuid, bigint, text, text, text, float8, integer, float8)'
        ' SET search_path = %I, pg_temp', current_schema());
END $$;
"""


def upgrade() -> None:
    for part in (AFRESH, DATABASE, REFUNDS):
        run_script(op.get_bind(), part)


def downgrade() -> None:
    op.execute(text("SELECT break_law('no_way_back', 'which database was released would be forgotten')"))
