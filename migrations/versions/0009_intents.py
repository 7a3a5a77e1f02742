"""An intent is one statement: ``payment_intend`` and ``refund_intend`` claim, look what is in the way, and insert.

They are functions and volatile on purpose. Each statement inside sees what was committed before it began, so what is
looked up after a lock is looked up freshly; a CTE would look with the snapshot from before the lock. What is in the
way is returned, not raised, and nothing is inserted then; the laws on the tables hold whatever these functions do.

The one row that they return: ``obstacle`` (NULL: inserted, at the moment ``at``), and of the earlier payment or refund
that is in the way its id, state, failure, and two ages in seconds: since it was made, and since its end is known.
"""

from alembic import op
from sqlalchemy import text

from payment_service.postgres.schema import run_script

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

SHARED = """
CREATE TYPE intent AS (
    at timestamptz, obstacle text, earlier uuid, state text, failure text, age_s float8, known_s float8,
    is_equal boolean, amount bigint
);

CREATE FUNCTION api_key_holds(of_key integer) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT of_key IS NULL OR EXISTS (
        SELECT FROM api_key WHERE id = of_key AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now()))
$$;

-- One at a time: until the transaction ends, others with the same name wait.
CREATE FUNCTION one_at_a_time(name text) RETURNS void LANGUAGE sql VOLATILE AS $$
    SELECT pg_advisory_xact_lock(hashtextextended(name, 0))
$$;

-- Whether whoever runs this statement still waits for it. It commits by itself: after a long wait for a lock it would
-- write an intent whose sender has given up, and which nobody sends.
CREATE FUNCTION in_time(within_s float8) RETURNS boolean LANGUAGE sql VOLATILE AS $$
    SELECT clock_timestamp() <= now() + make_interval(secs => within_s)
$$;

CREATE FUNCTION claim_key(of_caller text, of_key text, of_fingerprint text, of_operation uuid) RETURNS void
LANGUAGE sql VOLATILE AS $$
    INSERT INTO idempotency_claim AS claim (caller, idempotency_key, fingerprint, operation_id)
    VALUES (of_caller, of_key, of_fingerprint, of_operation)
    ON CONFLICT (caller, idempotency_key) DO UPDATE SET operation_id = EXCLUDED.operation_id
$$;
"""

PAYMENTS = """
CREATE FUNCTION payment_in_the_way(earlier payment, is_equal boolean, obstacle text) RETURNS intent
LANGUAGE sql STABLE AS $$
    SELECT now(), obstacle, earlier.id, earlier.state, earlier.failure,
        extract(epoch FROM now() - earlier.created_at)::float8,
        extract(epoch FROM now() - coalesce(earlier.known_at, earlier.created_at))::float8, is_equal, earlier.amount
$$;

CREATE FUNCTION payment_intend(
    _id uuid, _method text, _shop_id integer, _route_version integer, _provider text, _organization_bin text,
    _device_token_id integer, _amount bigint, _phone_last4 text, _message text, _short_code text, _order_id text,
    _metadata jsonb, _caller text, _fingerprint text, _key text, _window_s float8, _api_key_id integer,
    _may_insert boolean, _within_s float8
) RETURNS intent LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    claim idempotency_claim%ROWTYPE;
    earlier payment%ROWTYPE;
    is_equal boolean;
BEGIN
    IF NOT api_key_holds(_api_key_id) THEN
        RETURN (now(), 'api_key_revoked', NULL, NULL, NULL, NULL, NULL, NULL, NULL)::intent;
    END IF;

    -- By its key a request is known for good.
    IF _key IS NOT NULL THEN
        PERFORM one_at_a_time('key ' || _caller || ' ' || _key);
        SELECT * INTO claim FROM idempotency_claim WHERE caller = _caller AND idempotency_key = _key;
        IF FOUND THEN
            SELECT * INTO earlier FROM payment WHERE id = claim.operation_id;
            IF claim.fingerprint <> _fingerprint OR (FOUND AND earlier.metadata <> _metadata) THEN
                RETURN payment_in_the_way(earlier, false, 'key_reused');
            ELSIF FOUND AND earlier.failure IS DISTINCT FROM 'not_sent' THEN
                RETURN payment_in_the_way(earlier, true, 'same_key');
            END IF;
        END IF;
    END IF;

    -- By its words for a while, and for as long as nobody knows what became of its like.
    PERFORM one_at_a_time(_fingerprint);
    IF _key IS NULL THEN
        SELECT * INTO earlier FROM payment
        WHERE fingerprint = _fingerprint AND caller = _caller AND failure IS DISTINCT FROM 'not_sent'
        ORDER BY state NOT IN ('sending', 'unknown'), coalesce(known_at, created_at) DESC LIMIT 1;
        IF FOUND AND (earlier.state IN ('sending', 'unknown')
                OR coalesce(earlier.known_at, earlier.created_at) > now() - make_interval(secs => _window_s)) THEN
            RETURN payment_in_the_way(earlier, true, 'alike');
        END IF;
    END IF;

    -- By its order while another payment of it is open, or paid with the same amount.
    IF _order_id IS NOT NULL THEN
        PERFORM one_at_a_time('order ' || _shop_id || ' ' || _order_id);
        SELECT * INTO earlier FROM payment
        WHERE shop_id = _shop_id AND order_id = _order_id AND state IN ('sending', 'pending', 'unknown');
        IF FOUND THEN
            is_equal := earlier.fingerprint IS NOT DISTINCT FROM _fingerprint
                AND (_key IS NULL OR earlier.metadata = _metadata);
            IF is_equal AND _key IS NOT NULL THEN
                PERFORM claim_key(_caller, _key, _fingerprint, earlier.id);
            END IF;
            RETURN payment_in_the_way(earlier, is_equal, 'order_open');
        END IF;
        SELECT * INTO earlier FROM payment
        WHERE shop_id = _shop_id AND order_id = _order_id AND state = 'paid' AND amount = _amount
            AND refunded_amount < amount LIMIT 1;
        IF FOUND THEN
            RETURN payment_in_the_way(earlier, false, 'order_paid');
        END IF;
    END IF;

    IF NOT _may_insert THEN
        RETURN (now(), 'not_allowed', NULL, NULL, NULL, NULL, NULL, NULL, NULL)::intent;
    END IF;
    IF NOT in_time(_within_s) THEN
        RETURN (now(), 'too_late', NULL, NULL, NULL, NULL, NULL, NULL, NULL)::intent;
    END IF;
    INSERT INTO payment (
        id, method, shop_id, route_version, provider, organization_bin, device_token_id, amount, phone_last4, message,
        short_code, order_id, metadata, caller, fingerprint, keyed, state
    ) VALUES (
        _id, _method, _shop_id, _route_version, _provider, _organization_bin, _device_token_id, _amount, _phone_last4,
        _message, _short_code, _order_id, _metadata, _caller, _fingerprint, _key IS NOT NULL, 'sending'
    );
    IF _key IS NOT NULL THEN
        PERFORM claim_key(_caller, _key, _fingerprint, _id);
    END IF;
    RETURN (now(), NULL, _id, 'sending', NULL, 0, 0, NULL, _amount)::intent;
END $$;
"""

REFUNDS = """
CREATE FUNCTION refund_in_the_way(earlier refund, obstacle text) RETURNS intent LANGUAGE sql STABLE AS $$
    SELECT now(), obstacle, earlier.id, earlier.state, earlier.failure,
        extract(epoch FROM now() - earlier.created_at)::float8,
        extract(epoch FROM now() - coalesce(earlier.known_at, earlier.created_at))::float8, true, earlier.amount
$$;

CREATE FUNCTION refund_intend(
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
    remainder := paid.amount - paid.refunded_amount - paid.reserved_amount;
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
"""

PATHS = """
-- As for every function since 0008: no temporary table can stand in the place of one of ours.
DO $$
DECLARE
    made regprocedure;
BEGIN
    FOR made IN
        SELECT oid::regprocedure FROM pg_proc
        WHERE pronamespace = current_schema()::regnamespace AND proname IN (
            'api_key_holds', 'in_time', 'one_at_a_time', 'claim_key', 'payment_in_the_way', 'payment_intend',
            'refund_in_the_way', 'refund_intend')
    LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = %I, pg_temp', made, current_schema());
    END LOOP;
END $$;
"""


def upgrade() -> None:
    for part in (SHARED, PAYMENTS, REFUNDS, PATHS):
        run_script(op.get_bind(), part)


def downgrade() -> None:
    op.execute(text("SELECT break_law('no_way_back', 'the code before it wrote no key of its caller')"))
