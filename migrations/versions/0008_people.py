"""What people may do and see: a settlement can be undone, changes of who may do what are in the record, keys stay.

The record gets two columns for what is no payment: ``subject`` names the row that was changed, and ``content`` says
what it holds now, without its secrets. A change without such an entry in the same transaction does not commit.
"""

from alembic import op
from sqlalchemy import text

from payment_service.postgres.schema import run_script

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

UNDO = """
-- Whether a person named the external_id: only then may the undoing of that settlement take it away again.
ALTER TABLE payment ADD COLUMN id_from_settlement boolean NOT NULL DEFAULT false;
ALTER TABLE payment ADD CONSTRAINT payment_id_from_settlement_is_settled
    CHECK (NOT id_from_settlement OR (external_id IS NOT NULL AND state NOT IN ('sending', 'unknown')));
ALTER TABLE payment_log ADD CONSTRAINT payment_log_undoing_has_reason
    CHECK (operation_type <> 'settle-undo' OR source = 'client' OR coalesce(btrim(reason), '') <> '');

-- Who made the settlement by hand that a payment or a refund stands by since it last moved; none without one.
CREATE FUNCTION settled_by(of_payment uuid, of_refund uuid, moved_at timestamptz) RETURNS varchar
LANGUAGE sql STABLE AS $$
    SELECT actor FROM payment_log
    WHERE payment_id = of_payment AND refund_id IS NOT DISTINCT FROM of_refund AND source = 'service'
      AND operation_type = 'settle' AND reason IS NOT NULL AND (moved_at IS NULL OR created_at = moved_at)
    ORDER BY id DESC LIMIT 1
$$;

CREATE OR REPLACE FUNCTION payment_changes() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    undoes boolean := OLD.state IN ('pending', 'paid', 'failed', 'cancelled') AND NEW.state = 'unknown';
BEGIN
    IF (NEW.id, NEW.shop_id, NEW.provider, NEW.created_at, NEW.caller, NEW.short_code, NEW.message, NEW.metadata,
        NEW.fingerprint, NEW.order_id, NEW.phone_last4, NEW.source)
       IS DISTINCT FROM
       (OLD.id, OLD.shop_id, OLD.provider, OLD.created_at, OLD.caller, OLD.short_code, OLD.message, OLD.metadata,
        OLD.fingerprint, OLD.order_id, OLD.phone_last4, OLD.source)
       -- Only what a client left out of its report may come later, and only once.
       OR (NEW.method IS DISTINCT FROM OLD.method AND OLD.method IS NOT NULL)
       OR (NEW.amount IS DISTINCT FROM OLD.amount AND OLD.amount IS NOT NULL)
       OR (NEW.organization_bin IS DISTINCT FROM OLD.organization_bin AND OLD.organization_bin IS NOT NULL)
       OR ((NEW.route_version, NEW.device_token_id) IS DISTINCT FROM (OLD.route_version, OLD.device_token_id)
           AND OLD.organization_bin IS NOT NULL) THEN
        PERFORM break_law('payment_route_is_pinned', 'route, amount and origin of a payment never change');
    END IF;
    IF OLD.external_id IS NOT NULL AND NEW.external_id IS DISTINCT FROM OLD.external_id
       AND NOT (undoes AND OLD.id_from_settlement AND NEW.external_id IS NULL) THEN
        PERFORM break_law('payment_external_id_is_fixed', 'a payment never gets another external_id');
    END IF;
    IF NEW.id_from_settlement AND NOT OLD.id_from_settlement AND OLD.external_id IS NOT NULL
       OR OLD.id_from_settlement AND NOT NEW.id_from_settlement AND NOT undoes THEN
        PERFORM break_law('payment_id_from_settlement', 'where an external_id comes from never changes');
    END IF;
    IF OLD.same_as IS NOT NULL AND (NEW.same_as, NEW.state) IS DISTINCT FROM (OLD.same_as, OLD.state)
       -- Unless the payment that it was merged into gave its id back.
       AND NOT (NEW.same_as IS NULL AND NEW.state = OLD.state AND EXISTS (
           SELECT FROM payment WHERE id = OLD.same_as AND external_id IS NULL)) THEN
        PERFORM break_law('payment_merged_is_fixed', 'a report that was merged into a payment stays as it is');
    END IF;
    IF NEW.state <> OLD.state THEN
        IF undoes AND OLD.same_as IS NULL AND (
            settled_by(OLD.id, NULL, OLD.moved_at) IS NOT NULL OR OLD.id_from_settlement
        ) THEN
            IF NEW.refunded_amount + NEW.reserved_amount > 0 THEN
                PERFORM break_law('payment_undone_unrefunded', 'of this payment money was paid back, or may have been');
            END IF;
        ELSIF (OLD.state, NEW.state) NOT IN (
            ('sending', 'pending'), ('sending', 'failed'), ('sending', 'unknown'),
            ('pending', 'paid'), ('pending', 'failed'), ('pending', 'cancelled'),
            ('unknown', 'pending'), ('unknown', 'paid'), ('unknown', 'failed'),
            ('failed', 'paid')
        ) THEN
            PERFORM break_law('payment_moves', 'a payment cannot go from ' || OLD.state || ' to ' || NEW.state);
        END IF;
        NEW.moved_at := now();
    END IF;
    NEW.updated_at := now();
    RETURN NEW;
END $$;

CREATE OR REPLACE FUNCTION refund_changes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (NEW.id, NEW.payment_id, NEW.amount, NEW.caller, NEW.created_at, NEW.fingerprint)
       IS DISTINCT FROM (OLD.id, OLD.payment_id, OLD.amount, OLD.caller, OLD.created_at, OLD.fingerprint) THEN
        PERFORM break_law('refund_is_fixed', 'payment, amount and origin of a refund never change');
    END IF;
    IF NEW.state <> OLD.state THEN
        IF OLD.state IN ('succeeded', 'failed') AND NEW.state = 'unknown'
           AND settled_by(OLD.payment_id, OLD.id, OLD.moved_at) IS NOT NULL THEN
            IF (SELECT state FROM payment WHERE id = OLD.payment_id) <> 'paid' THEN
                PERFORM break_law('refund_of_paid_payment', 'only a paid payment can be refunded');
            END IF;
        ELSIF (OLD.state, NEW.state) NOT IN (
            ('sending', 'succeeded'), ('sending', 'failed'), ('sending', 'unknown'),
            ('unknown', 'succeeded'), ('unknown', 'failed')
        ) THEN
            PERFORM break_law('refund_moves', 'a refund cannot go from ' || OLD.state || ' to ' || NEW.state);
        END IF;
    END IF;
    NEW.updated_at := now();
    RETURN NEW;
END $$;

-- Nothing lost from the record, and nobody undoes a settlement of their own: asked at commit.
CREATE OR REPLACE FUNCTION move_is_audited() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    of_payment uuid := CASE TG_TABLE_NAME WHEN 'payment' THEN NEW.id ELSE (to_jsonb(NEW) ->> 'payment_id')::uuid END;
    of_refund uuid := CASE TG_TABLE_NAME WHEN 'refund' THEN NEW.id END;
    undoes boolean := OLD.state <> 'sending' AND NEW.state = 'unknown';
BEGIN
    IF NOT EXISTS (
        SELECT FROM payment_log
        WHERE payment_id = of_payment AND refund_id IS NOT DISTINCT FROM of_refund
          AND state = NEW.state AND created_at = now()
          AND (NOT undoes OR (operation_type = 'settle-undo' AND source = 'service'))
    ) THEN
        PERFORM break_law('move_is_audited', 'a move needs its audit entry in the same transaction');
    END IF;
    IF undoes AND EXISTS (
        SELECT FROM payment_log
        WHERE payment_id = of_payment AND refund_id IS NOT DISTINCT FROM of_refund AND created_at = now()
          AND operation_type = 'settle-undo' AND actor = settled_by(of_payment, of_refund, NULL)
    ) THEN
        PERFORM break_law('settlement_undone_by_another', 'nobody undoes a settlement of their own');
    END IF;
    RETURN NULL;
END $$;
"""

KEYS = """
CREATE FUNCTION api_key_changes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND (
        (NEW.id, NEW.name, NEW.prefix, NEW.digest, NEW.created_at)
        IS DISTINCT FROM (OLD.id, OLD.name, OLD.prefix, OLD.digest, OLD.created_at)
        OR (OLD.revoked_at IS NOT NULL AND NEW.revoked_at IS DISTINCT FROM OLD.revoked_at)
    ) THEN
        PERFORM break_law('api_key_fixed', 'who a key is of never changes, and one that was revoked stays so');
    END IF;
    -- Streams and waiting requests of every process end with what their key held.
    PERFORM pg_notify('api_key_changed', NEW.id::text);
    RETURN NEW;
END $$;
CREATE TRIGGER api_key_changes BEFORE INSERT OR UPDATE ON api_key
    FOR EACH ROW EXECUTE FUNCTION api_key_changes();
CREATE TRIGGER api_key_kept BEFORE DELETE ON api_key FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER api_key_no_truncate BEFORE TRUNCATE ON api_key
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
"""

CHANGES = """
ALTER TABLE payment_log
    ADD COLUMN subject varchar(60),
    ADD COLUMN content text,
    ADD CONSTRAINT payment_log_subject_has_content
        CHECK ((subject IS NULL) = (content IS NULL) AND (subject IS NULL OR source = 'service'));
CREATE INDEX payment_log_subject ON payment_log (subject, id) WHERE subject IS NOT NULL;
-- A token's id is known before its ciphertext, which is bound to it.
ALTER TABLE device_token ALTER COLUMN id SET GENERATED BY DEFAULT;

CREATE FUNCTION sha256_of(secret text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT encode(sha256(convert_to(secret, 'UTF8')), 'hex')
$$;

-- What the record says of a row that decides who may do what. Named one by one, so that a column which is added later
-- does not make what was recorded before look wrong.
CREATE FUNCTION audited_content(kind text, of_row text) RETURNS text
LANGUAGE plpgsql STABLE SET timezone = 'UTC' AS $$
DECLARE
    held jsonb;
BEGIN
    CASE kind
    WHEN 'payment_config' THEN
        SELECT jsonb_build_object(
            'shop_id', shop_id, 'version', version, 'organization_bin', organization_bin, 'device_token', device_token,
            'device_token_id', device_token_id, 'is_active', is_active, 'provider', provider, 'name', name,
            'city', city, 'description', description)
        INTO held FROM payment_config WHERE shop_id = of_row::integer;
    WHEN 'device_token' THEN
        SELECT jsonb_build_object('id', id, 'masked', masked, 'ciphertext', sha256_of(ciphertext))
        INTO held FROM device_token WHERE id = of_row::integer;
    WHEN 'fingerprint_key' THEN
        SELECT jsonb_build_object('id', id, 'ciphertext', sha256_of(ciphertext))
        INTO held FROM fingerprint_key WHERE id = of_row::smallint;
    WHEN 'api_key' THEN
        SELECT jsonb_build_object(
            'id', id, 'name', name, 'prefix', prefix, 'digest', digest, 'scopes', scopes, 'shops', shops,
            'created_at', created_at, 'expires_at', expires_at, 'revoked_at', revoked_at)
        INTO held FROM api_key WHERE id = of_row::integer;
    WHEN 'webhook_endpoint' THEN
        SELECT jsonb_build_object(
            'id', id, 'url', sha256_of(url), 'description', description, 'events', events, 'shops', shops,
            'is_active', is_active, 'off_reason', off_reason, 'secret', sha256_of(secret_ciphertext),
            'previous_secret', sha256_of(previous_secret_ciphertext), 'previous_secret_until', previous_secret_until,
            'headers', sha256_of(headers_ciphertext))
        INTO held FROM webhook_endpoint WHERE id = of_row::uuid;
    WHEN 'notify_chat' THEN
        SELECT jsonb_build_object('id', id, 'channel', channel, 'address', sha256_of(address))
        INTO held FROM notify_chat WHERE id = of_row::uuid;
    WHEN 'notify_binding' THEN
        SELECT jsonb_build_object(
            'id', id, 'chat_id', chat_id, 'shop_id', shop_id, 'events', events, 'language', language,
            'description', description, 'is_active', is_active)
        INTO held FROM notify_binding WHERE id = of_row::uuid;
    END CASE;
    RETURN held::text;
END $$;

CREATE VIEW audited_today AS
    SELECT kind || ':' || of_row AS subject, audited_content(kind, of_row) AS content FROM (
        SELECT 'payment_config' AS kind, shop_id::text AS of_row FROM payment_config
        UNION ALL SELECT 'device_token', id::text FROM device_token
        UNION ALL SELECT 'fingerprint_key', id::text FROM fingerprint_key
        UNION ALL SELECT 'api_key', id::text FROM api_key
        UNION ALL SELECT 'webhook_endpoint', id::text FROM webhook_endpoint
        UNION ALL SELECT 'notify_chat', id::text FROM notify_chat
        UNION ALL SELECT 'notify_binding', id::text FROM notify_binding
    ) AS rows_of_today;

-- From here on the record is complete: it begins with what is there.
INSERT INTO payment_log (operation_type, actor, source, subject, content)
    SELECT 'baseline', 'migration', 'service', subject, content FROM audited_today ORDER BY subject;

CREATE FUNCTION change_is_audited() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    of_row text := to_jsonb(NEW) ->> TG_ARGV[0];
BEGIN
    IF NOT EXISTS (
        SELECT FROM payment_log
        WHERE subject = TG_TABLE_NAME || ':' || of_row AND created_at = now()
          AND content = audited_content(TG_TABLE_NAME, of_row)
    ) THEN
        PERFORM break_law('change_is_audited', 'a change needs its audit entry in the same transaction');
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER payment_config_is_audited AFTER INSERT OR UPDATE ON payment_config
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION change_is_audited('shop_id');
CREATE CONSTRAINT TRIGGER device_token_is_audited AFTER INSERT OR UPDATE ON device_token
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION change_is_audited('id');
CREATE CONSTRAINT TRIGGER fingerprint_key_is_audited AFTER INSERT OR UPDATE ON fingerprint_key
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION change_is_audited('id');
CREATE CONSTRAINT TRIGGER api_key_is_audited AFTER INSERT OR UPDATE ON api_key
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION change_is_audited('id');
-- Not how an endpoint fares, which changes with every delivery.
CREATE CONSTRAINT TRIGGER webhook_endpoint_is_audited
    AFTER INSERT OR UPDATE OF id, url, description, events, shops, is_active, off_reason, secret_ciphertext,
        previous_secret_ciphertext, previous_secret_until, headers_ciphertext ON webhook_endpoint
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION change_is_audited('id');
CREATE CONSTRAINT TRIGGER notify_chat_is_audited AFTER INSERT OR UPDATE OF id, channel, address ON notify_chat
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION change_is_audited('id');
CREATE CONSTRAINT TRIGGER notify_binding_is_audited AFTER INSERT OR UPDATE ON notify_binding
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION change_is_audited('id');
CREATE TRIGGER notify_chat_kept BEFORE DELETE ON notify_chat FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER notify_chat_no_truncate BEFORE TRUNCATE ON notify_chat
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER notify_binding_kept BEFORE DELETE ON notify_binding FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER notify_binding_no_truncate BEFORE TRUNCATE ON notify_binding
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
"""

PATHS = """
-- A law reads the tables that it was made for. Without this, whoever may make temporary tables could lay one of the
-- same name over the record, and a law would find there what it asks for.
DO $$
DECLARE
    law regprocedure;
BEGIN
    FOR law IN
        SELECT oid::regprocedure FROM pg_proc
        WHERE pronamespace = current_schema()::regnamespace AND prokind = 'f' AND proname NOT LIKE 'fn_pgqueuer%'
    LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = %I, pg_temp', law, current_schema());
    END LOOP;
END $$;
"""


def upgrade() -> None:
    for part in (UNDO, KEYS, CHANGES, PATHS):
        run_script(op.get_bind(), part)


def downgrade() -> None:
    op.execute(text("SELECT break_law('no_way_back', 'what was undone and who changed what is part of the record')"))
