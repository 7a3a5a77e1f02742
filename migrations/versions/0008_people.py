"""What people may do and see: a settlement can be undone, changes of who may do what are in the record, keys stay.

The record gets two columns for what is no payment: ``subject`` names the row that was changed, and ``content`` says
what it holds now, without its secrets. A change without such an entry in the same transaction does not commit.
"""

from alembic import op
from sqlalchemy import text

from payment_service.schema import run_script

revision = "0008"
down_revision = "0006"
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


def upgrade() -> None:
    run_script(op.get_bind(), UNDO)
    run_script(op.get_bind(), KEYS)


def downgrade() -> None:
    op.execute(text("SELECT break_law('no_way_back', 'what was undone and who changed what is part of the record')"))
