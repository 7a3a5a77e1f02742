"""First schema: routing, keys, payments, refunds, audit, a queue, and the laws that the database holds.

Plain SQL, because most of it is laws and not columns. Code explains, the database forbids: every trigger below
repeats a rule of the code, and a test breaks each.
"""

from pathlib import Path

from alembic import op
from sqlalchemy import text

from payment_service.postgres.schema import run_script

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# A broken law is told by name, as a constraint would be, so that code can tell laws apart.
LAWS = """
CREATE FUNCTION break_law(law text, sentence text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'check_violation', CONSTRAINT = law, MESSAGE = sentence;
END $$;

-- docs/kaspi-api.md section 1: weights 1..11 mod 11, then 3..11,1,2 mod 11; a second 10 is never right.
CREATE FUNCTION bin_is_valid(bin text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE STRICT AS $$
DECLARE
    first int := 0;
    second int := 0;
BEGIN
    IF bin !~ '^[0-9]{12}$' THEN
        RETURN false;
    END IF;
    FOR i IN 1..11 LOOP
        first := first + i * substr(bin, i, 1)::int;
        second := second + ((i + 1) % 11 + 1) * substr(bin, i, 1)::int;
    END LOOP;
    RETURN CASE WHEN first % 11 < 10 THEN first % 11 ELSE second % 11 END = substr(bin, 12, 1)::int;
END $$;

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM break_law(TG_TABLE_NAME || '_insert_only', 'rows of ' || TG_TABLE_NAME || ' are never changed');
    RETURN NULL;
END $$;
"""

ROUTING = """
CREATE TABLE device_token (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    ciphertext text NOT NULL,
    masked varchar(9) NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE payment_config_history (
    shop_id integer NOT NULL CHECK (shop_id > 0),
    version integer NOT NULL CHECK (version > 0),
    organization_bin varchar(12) NOT NULL CHECK (bin_is_valid(organization_bin)),
    device_token varchar(9),
    device_token_id integer REFERENCES device_token (id),
    is_active boolean NOT NULL,
    provider varchar(20) NOT NULL DEFAULT 'kaspi' CHECK (provider IN ('kaspi')),
    name varchar(200) NOT NULL,
    city varchar(100) NOT NULL,
    description varchar(500) NOT NULL,
    actor varchar(100) NOT NULL,
    reason varchar(500) NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (shop_id, version),
    CHECK ((device_token IS NULL) = (device_token_id IS NULL))
);
CREATE TRIGGER payment_config_history_insert_only BEFORE UPDATE OR DELETE ON payment_config_history
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER payment_config_history_no_truncate BEFORE TRUNCATE ON payment_config_history
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

CREATE TABLE payment_config (
    id serial PRIMARY KEY,
    shop_id integer NOT NULL UNIQUE CHECK (shop_id > 0),
    organization_bin varchar(12) NOT NULL CHECK (bin_is_valid(organization_bin)),
    device_token varchar(9),
    device_token_id integer REFERENCES device_token (id),
    is_active boolean NOT NULL DEFAULT true,
    provider varchar(20) NOT NULL DEFAULT 'kaspi' CHECK (provider IN ('kaspi')),
    name varchar(200) NOT NULL DEFAULT '',
    city varchar(100) NOT NULL DEFAULT '',
    description varchar(500) NOT NULL DEFAULT '',
    version integer NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CHECK ((device_token IS NULL) = (device_token_id IS NULL)),
    -- Checked at commit: no routing without its line of history.
    FOREIGN KEY (shop_id, version) REFERENCES payment_config_history (shop_id, version)
        DEFERRABLE INITIALLY DEFERRED
);
CREATE INDEX payment_config_bin ON payment_config (organization_bin);

-- A token's identity and its mask are fixed; only its ciphertext changes, when the key is rotated.
CREATE FUNCTION device_token_changes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' OR NEW.id <> OLD.id OR NEW.masked <> OLD.masked THEN
        PERFORM break_law('device_token_fixed', 'a device token can only be encrypted anew');
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER device_token_fixed BEFORE UPDATE OR DELETE ON device_token
    FOR EACH ROW EXECUTE FUNCTION device_token_changes();

-- Every change of routing is a new version, and every process hears of it.
CREATE FUNCTION payment_config_changes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND (NEW.shop_id <> OLD.shop_id OR NEW.version <> OLD.version + 1) THEN
        PERFORM break_law('payment_config_versioned', 'a change of routing needs its line of history');
    END IF;
    PERFORM pg_notify('routing_changed', NEW.shop_id::text);
    RETURN NEW;
END $$;
CREATE TRIGGER payment_config_versioned BEFORE INSERT OR UPDATE ON payment_config
    FOR EACH ROW EXECUTE FUNCTION payment_config_changes();
CREATE TRIGGER payment_config_kept BEFORE DELETE ON payment_config
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
"""

ACCESS = """
CREATE TABLE api_key (
    id serial PRIMARY KEY,
    name varchar(64) NOT NULL CHECK (name <> ''),
    prefix varchar(12) NOT NULL,
    digest varchar(64) NOT NULL UNIQUE,
    scopes varchar(32)[] NOT NULL CHECK (cardinality(scopes) > 0),
    shops integer[],
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    revoked_at timestamptz
);
"""

AUDIT = """
CREATE TABLE payment_log (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    shop_id integer,
    organization_bin varchar(12),
    operation_type varchar(20) NOT NULL,
    external_id varchar(50),
    amount bigint CHECK (amount >= 0),
    status varchar(50),
    state varchar(10),
    error_message varchar(500),
    provider varchar(20) NOT NULL DEFAULT 'kaspi',
    payment_id uuid,
    refund_id uuid,
    actor varchar(100) NOT NULL,
    source varchar(10) NOT NULL CHECK (source IN ('service', 'client')),
    request_id varchar(128),
    created_at timestamptz NOT NULL DEFAULT now()
);
-- One index for each way in which the log is read, newest first: no page depends on how long the log is.
CREATE INDEX payment_log_time ON payment_log (created_at, id);
CREATE INDEX payment_log_shop ON payment_log (shop_id, created_at, id);
CREATE INDEX payment_log_shop_operation ON payment_log (shop_id, operation_type, created_at, id);
CREATE INDEX payment_log_shop_status ON payment_log (shop_id, status, created_at, id);
CREATE INDEX payment_log_operation ON payment_log (operation_type, created_at, id);
CREATE INDEX payment_log_operation_status ON payment_log (operation_type, status, created_at, id);
CREATE INDEX payment_log_status ON payment_log (status, created_at, id);
CREATE INDEX payment_log_provider ON payment_log (provider, created_at, id);
CREATE INDEX payment_log_external_id ON payment_log (external_id, created_at, id);
CREATE INDEX payment_log_payment ON payment_log (payment_id, id);

CREATE TRIGGER payment_log_insert_only BEFORE UPDATE OR DELETE ON payment_log
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER payment_log_no_truncate BEFORE TRUNCATE ON payment_log
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
REVOKE UPDATE, DELETE, TRUNCATE ON payment_log FROM PUBLIC;

CREATE VIEW paymentconfig AS
    SELECT id, shop_id, organization_bin, device_token, is_active, provider, name, city, description,
           created_at, updated_at
    FROM payment_config;
CREATE VIEW paymentlog AS
    SELECT id, shop_id, organization_bin, operation_type, external_id, amount, status, error_message, provider,
           created_at
    FROM payment_log;
-- Read-only for everybody: PostgreSQL would pass changes of so simple a view through to its table.
CREATE TRIGGER paymentconfig_read_only INSTEAD OF INSERT OR UPDATE OR DELETE ON paymentconfig
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER paymentlog_read_only INSTEAD OF INSERT OR UPDATE OR DELETE ON paymentlog
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
"""

PAYMENTS = """
CREATE TABLE payment (
    id uuid PRIMARY KEY,
    method varchar(5) NOT NULL CHECK (method IN ('phone', 'link')),
    shop_id integer NOT NULL,
    route_version integer NOT NULL,
    provider varchar(20) NOT NULL DEFAULT 'kaspi',
    organization_bin varchar(12) NOT NULL CHECK (bin_is_valid(organization_bin)),
    device_token_id integer REFERENCES device_token (id),
    amount bigint NOT NULL CHECK (amount BETWEEN 1 AND 9999999999),
    phone_last4 char(4) CHECK (phone_last4 ~ '^[0-9]{4}$'),
    message varchar(200) NOT NULL DEFAULT '',
    short_code varchar(8) NOT NULL,
    order_id varchar(64) CHECK (order_id <> ''),
    metadata jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(metadata) = 'object'),
    caller varchar(64) NOT NULL,
    fingerprint varchar(64) NOT NULL,
    state varchar(10) NOT NULL
        CHECK (state IN ('sending', 'pending', 'paid', 'failed', 'cancelled', 'unknown')),
    status varchar(50),
    external_id varchar(50),
    payment_link text,
    expire_date timestamptz,
    failure varchar(10) CHECK (failure IN ('not_sent', 'refused', 'rejected', 'declined')),
    error_code varchar(50),
    error_message varchar(500),
    refunded_amount bigint NOT NULL DEFAULT 0 CHECK (refunded_amount >= 0),
    reserved_amount bigint NOT NULL DEFAULT 0 CHECK (reserved_amount >= 0),
    error_seen_at timestamptz,
    next_check_at timestamptz,
    checks integer NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT payment_refunds_within_amount CHECK (refunded_amount + reserved_amount <= amount),
    CONSTRAINT payment_phone_fits_method CHECK ((method = 'phone') = (phone_last4 IS NOT NULL)),
    CONSTRAINT payment_link_has_token CHECK (method = 'phone' OR device_token_id IS NOT NULL),
    CONSTRAINT payment_failure_fits_state CHECK ((state = 'failed') = (failure IS NOT NULL)),
    CONSTRAINT payment_is_known_to_provider
        CHECK (state NOT IN ('pending', 'paid', 'cancelled') OR external_id IS NOT NULL),
    FOREIGN KEY (shop_id, route_version) REFERENCES payment_config_history (shop_id, version)
);
-- The id first: payments are looked up by it alone, and before PostgreSQL 18 an index serves only its first columns.
CREATE UNIQUE INDEX payment_external_id ON payment (external_id, provider);
CREATE UNIQUE INDEX payment_one_open_per_order ON payment (shop_id, order_id)
    WHERE state IN ('sending', 'pending', 'unknown');
CREATE INDEX payment_time ON payment (created_at, id);
CREATE INDEX payment_shop ON payment (shop_id, created_at, id);
CREATE INDEX payment_order ON payment (order_id, created_at, id);
CREATE INDEX payment_state ON payment (state, created_at, id);
CREATE INDEX payment_shop_state ON payment (shop_id, state, created_at, id);
CREATE INDEX payment_phone ON payment (phone_last4, created_at, id);
CREATE INDEX payment_short_code ON payment (short_code);
CREATE INDEX payment_fingerprint ON payment (fingerprint, created_at);
CREATE INDEX payment_overdue ON payment (next_check_at) WHERE next_check_at IS NOT NULL;
CREATE INDEX payment_sending ON payment (created_at) WHERE state = 'sending';

-- Never to the wrong seller: a payment starts only on the route that its shop has at this very moment. The lock
-- makes a change of routing and the making of a payment wait for each other.
CREATE FUNCTION payment_starts() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    today payment_config%ROWTYPE;
BEGIN
    SELECT * INTO today FROM payment_config WHERE shop_id = NEW.shop_id FOR SHARE;
    IF NOT FOUND OR NOT today.is_active OR today.version <> NEW.route_version
       OR today.provider <> NEW.provider OR today.organization_bin <> NEW.organization_bin
       OR today.device_token_id IS DISTINCT FROM NEW.device_token_id THEN
        PERFORM break_law('payment_route_is_current', 'the payment is not on today''s route of its shop');
    END IF;
    IF NEW.state <> 'sending' OR NEW.refunded_amount <> 0 OR NEW.reserved_amount <> 0 THEN
        PERFORM break_law('payment_starts_sending', 'a payment starts as sending, with nothing refunded');
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER payment_starts BEFORE INSERT ON payment FOR EACH ROW EXECUTE FUNCTION payment_starts();

CREATE FUNCTION payment_changes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (NEW.id, NEW.method, NEW.shop_id, NEW.route_version, NEW.provider, NEW.organization_bin, NEW.amount,
        NEW.created_at, NEW.caller, NEW.short_code, NEW.message, NEW.metadata, NEW.fingerprint)
       IS DISTINCT FROM
       (OLD.id, OLD.method, OLD.shop_id, OLD.route_version, OLD.provider, OLD.organization_bin, OLD.amount,
        OLD.created_at, OLD.caller, OLD.short_code, OLD.message, OLD.metadata, OLD.fingerprint)
       OR (NEW.device_token_id, NEW.order_id, NEW.phone_last4)
          IS DISTINCT FROM (OLD.device_token_id, OLD.order_id, OLD.phone_last4) THEN
        PERFORM break_law('payment_route_is_pinned', 'route, amount and origin of a payment never change');
    END IF;
    IF OLD.external_id IS NOT NULL AND NEW.external_id IS DISTINCT FROM OLD.external_id THEN
        PERFORM break_law('payment_external_id_is_fixed', 'a payment never gets another external_id');
    END IF;
    IF NEW.state <> OLD.state AND (OLD.state, NEW.state) NOT IN (
        ('sending', 'pending'), ('sending', 'failed'), ('sending', 'unknown'),
        ('pending', 'paid'), ('pending', 'failed'), ('pending', 'cancelled'),
        ('unknown', 'pending'), ('unknown', 'paid'), ('unknown', 'failed'),
        ('failed', 'paid')
    ) THEN
        PERFORM break_law('payment_moves', 'a payment cannot go from ' || OLD.state || ' to ' || NEW.state);
    END IF;
    NEW.updated_at := now();
    RETURN NEW;
END $$;
CREATE TRIGGER payment_changes BEFORE UPDATE ON payment FOR EACH ROW EXECUTE FUNCTION payment_changes();
CREATE TRIGGER payment_kept BEFORE DELETE ON payment FOR EACH ROW EXECUTE FUNCTION refuse_change();

CREATE TABLE refund (
    id uuid PRIMARY KEY,
    payment_id uuid NOT NULL REFERENCES payment (id),
    amount bigint NOT NULL CHECK (amount BETWEEN 1 AND 9999999999),
    state varchar(10) NOT NULL CHECK (state IN ('sending', 'succeeded', 'failed', 'unknown')),
    failure varchar(10) CHECK (failure IN ('not_sent', 'refused', 'rejected')),
    error_code varchar(50),
    error_message varchar(500),
    provider_refund_id varchar(50),
    caller varchar(64) NOT NULL,
    fingerprint varchar(64) NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT refund_failure_fits_state CHECK ((state = 'failed') = (failure IS NOT NULL))
);
CREATE INDEX refund_payment ON refund (payment_id, created_at, id);
CREATE INDEX refund_sending ON refund (created_at) WHERE state = 'sending';

CREATE FUNCTION refund_starts() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    paid payment%ROWTYPE;
BEGIN
    SELECT * INTO paid FROM payment WHERE id = NEW.payment_id FOR UPDATE;
    IF paid.state <> 'paid' THEN
        PERFORM break_law('refund_of_paid_payment', 'only a paid payment can be refunded');
    END IF;
    IF NEW.state <> 'sending' THEN
        PERFORM break_law('refund_starts_sending', 'a refund starts as sending');
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER refund_starts BEFORE INSERT ON refund FOR EACH ROW EXECUTE FUNCTION refund_starts();

CREATE FUNCTION refund_changes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (NEW.id, NEW.payment_id, NEW.amount, NEW.caller, NEW.created_at, NEW.fingerprint)
       IS DISTINCT FROM (OLD.id, OLD.payment_id, OLD.amount, OLD.caller, OLD.created_at, OLD.fingerprint) THEN
        PERFORM break_law('refund_is_fixed', 'payment, amount and origin of a refund never change');
    END IF;
    IF NEW.state <> OLD.state AND (OLD.state, NEW.state) NOT IN (
        ('sending', 'succeeded'), ('sending', 'failed'), ('sending', 'unknown'),
        ('unknown', 'succeeded'), ('unknown', 'failed')
    ) THEN
        PERFORM break_law('refund_moves', 'a refund cannot go from ' || OLD.state || ' to ' || NEW.state);
    END IF;
    NEW.updated_at := now();
    RETURN NEW;
END $$;
CREATE TRIGGER refund_changes BEFORE UPDATE ON refund FOR EACH ROW EXECUTE FUNCTION refund_changes();
CREATE TRIGGER refund_kept BEFORE DELETE ON refund FOR EACH ROW EXECUTE FUNCTION refuse_change();

-- What a payment says of its refunds is what its refunds say: checked at commit.
CREATE FUNCTION refunds_add_up() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    of_payment uuid := CASE TG_TABLE_NAME WHEN 'payment' THEN NEW.id ELSE (to_jsonb(NEW) ->> 'payment_id')::uuid END;
    wrong boolean;
BEGIN
    SELECT payment.refunded_amount <> coalesce(sum(refund.amount) FILTER (WHERE refund.state = 'succeeded'), 0)
        OR payment.reserved_amount
           <> coalesce(sum(refund.amount) FILTER (WHERE refund.state IN ('sending', 'unknown')), 0)
    INTO wrong
    FROM payment LEFT JOIN refund ON refund.payment_id = payment.id
    WHERE payment.id = of_payment GROUP BY payment.id;
    IF wrong THEN
        PERFORM break_law('refunds_add_up', 'refunded and reserved amounts must be the sums of the refunds');
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER refunds_add_up AFTER INSERT OR UPDATE ON refund
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refunds_add_up();
CREATE CONSTRAINT TRIGGER payment_refunds_add_up AFTER UPDATE OF refunded_amount, reserved_amount ON payment
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refunds_add_up();

-- Nothing lost from the record: a move without its audit entry in the same transaction does not commit.
CREATE FUNCTION move_is_audited() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    written boolean;
BEGIN
    IF TG_TABLE_NAME = 'payment' THEN
        SELECT EXISTS (SELECT FROM payment_log WHERE payment_id = NEW.id AND refund_id IS NULL
                       AND state = NEW.state AND created_at = now()) INTO written;
    ELSE
        SELECT EXISTS (SELECT FROM payment_log
                       WHERE payment_id = (to_jsonb(NEW) ->> 'payment_id')::uuid AND refund_id = NEW.id
                       AND state = NEW.state AND created_at = now()) INTO written;
    END IF;
    IF NOT written THEN
        PERFORM break_law('move_is_audited', 'a move needs its audit entry in the same transaction');
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER payment_move_is_audited AFTER UPDATE OF state ON payment
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (OLD.state IS DISTINCT FROM NEW.state)
    EXECUTE FUNCTION move_is_audited();
CREATE CONSTRAINT TRIGGER refund_move_is_audited AFTER UPDATE OF state ON refund
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (OLD.state IS DISTINCT FROM NEW.state)
    EXECUTE FUNCTION move_is_audited();

-- The key of those fingerprints: one, made once, never lost; only its ciphertext changes, when the vault's key does.
CREATE TABLE fingerprint_key (
    id smallint PRIMARY KEY CHECK (id = 1),
    ciphertext text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE TRIGGER fingerprint_key_kept BEFORE DELETE ON fingerprint_key
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER fingerprint_key_no_truncate BEFORE TRUNCATE ON fingerprint_key
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

CREATE TABLE idempotency_claim (
    caller varchar(64) NOT NULL,
    idempotency_key varchar(128) NOT NULL,
    fingerprint varchar(64) NOT NULL,
    operation_id uuid,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (caller, idempotency_key)
);
CREATE TRIGGER idempotency_claim_kept BEFORE DELETE ON idempotency_claim
    FOR EACH ROW EXECUTE FUNCTION refuse_change();

-- TRUNCATE asks no row trigger: what cannot be deleted cannot be emptied either.
CREATE TRIGGER device_token_no_truncate BEFORE TRUNCATE ON device_token
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER payment_config_no_truncate BEFORE TRUNCATE ON payment_config
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER payment_no_truncate BEFORE TRUNCATE ON payment
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER refund_no_truncate BEFORE TRUNCATE ON refund
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER idempotency_claim_no_truncate BEFORE TRUNCATE ON idempotency_claim
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
"""

# What pgqueuer 1.6 installed, frozen. Nothing reads it since 0010; a version that still does may run beside this one.
QUEUE = Path(__file__).with_name("0001_queue.sql").read_text(encoding="utf-8")


def upgrade() -> None:
    for part in (LAWS, ROUTING, ACCESS, AUDIT, PAYMENTS, QUEUE):
        run_script(op.get_bind(), part)


def downgrade() -> None:
    op.execute(text("SELECT break_law('no_way_back', 'the first schema holds the record of money: it is not dropped')"))
