"""Following, settling and adopting: what the worker knows of its turns, reasons in the record, payments of clients.

A payment that a client made itself (``source`` = client) begins as unknown, with the provider's id and whatever the
client told. What it did not tell may be filled in once, and never changes afterwards.
"""

from alembic import op
from sqlalchemy import text

from payment_service.postgres.schema import run_script

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

COLUMNS = """
ALTER TABLE payment_log ADD COLUMN reason varchar(500);
-- What a client reports under an id of its own is taken once, however often it is sent.
ALTER TABLE payment_log ADD COLUMN report_id varchar(64) CHECK (report_id <> '');
CREATE UNIQUE INDEX payment_log_report ON payment_log
    (report_id, actor, shop_id, operation_type, coalesce(external_id, '')) WHERE report_id IS NOT NULL;
-- Whoever settles by hand says why; a machine can only make something unknown.
ALTER TABLE payment_log ADD CONSTRAINT payment_log_settling_has_reason
    CHECK (operation_type <> 'settle' OR source = 'client' OR coalesce(state, '') = 'unknown'
           OR coalesce(btrim(reason), '') <> '');
-- What the old service wrote down is kept beside, and told apart from what this one did.
ALTER TABLE payment_log DROP CONSTRAINT payment_log_source_check;
ALTER TABLE payment_log ADD CONSTRAINT payment_log_source_check CHECK (source IN ('service', 'client', 'legacy'));
-- PostgreSQL fixes the columns of a view when it is made, so the view of operators stays as it was.

ALTER TABLE payment
    ADD COLUMN source varchar(10) NOT NULL DEFAULT 'service' CHECK (source IN ('service', 'client')),
    ADD COLUMN same_as uuid REFERENCES payment (id),
    ADD COLUMN moved_at timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN unread integer NOT NULL DEFAULT 0 CHECK (unread >= 0),
    ALTER COLUMN method DROP NOT NULL,
    ALTER COLUMN route_version DROP NOT NULL,
    ALTER COLUMN organization_bin DROP NOT NULL,
    ALTER COLUMN amount DROP NOT NULL,
    ALTER COLUMN short_code DROP NOT NULL,
    ALTER COLUMN fingerprint DROP NOT NULL,
    DROP CONSTRAINT payment_refunds_within_amount,
    DROP CONSTRAINT payment_phone_fits_method,
    DROP CONSTRAINT payment_link_has_token,
    DROP CONSTRAINT payment_failure_check,
    ADD CONSTRAINT payment_failure_check
        CHECK (failure IN ('not_sent', 'refused', 'rejected', 'declined', 'settled')),
    ADD CONSTRAINT payment_refunds_within_amount
        CHECK (refunded_amount + reserved_amount <= coalesce(amount, 0)),
    ADD CONSTRAINT payment_phone_fits_method
        CHECK (source = 'client' OR (method = 'phone') = (phone_last4 IS NOT NULL)),
    ADD CONSTRAINT payment_link_has_token
        CHECK (source = 'client' OR method = 'phone' OR device_token_id IS NOT NULL),
    ADD CONSTRAINT payment_of_ours_is_whole
        CHECK (source = 'client' OR (method IS NOT NULL AND route_version IS NOT NULL AND organization_bin IS NOT NULL
               AND amount IS NOT NULL AND short_code IS NOT NULL AND fingerprint IS NOT NULL)),
    ADD CONSTRAINT payment_of_client_has_external_id CHECK (source = 'service' OR external_id IS NOT NULL),
    -- A device token opens one BIN's account: it is pinned together with the line of history that says so, or not.
    ADD CONSTRAINT payment_token_has_route CHECK (device_token_id IS NULL OR route_version IS NOT NULL),
    ADD CONSTRAINT payment_only_reports_are_merged
        CHECK (same_as IS NULL OR (source = 'client' AND refunded_amount = 0 AND reserved_amount = 0
               AND next_check_at IS NULL));
ALTER TABLE refund
    DROP CONSTRAINT refund_failure_check,
    ADD CONSTRAINT refund_failure_check CHECK (failure IN ('not_sent', 'refused', 'rejected', 'settled')),
    ADD COLUMN moved_at timestamptz NOT NULL DEFAULT now();
-- A reply that names a refund which another request made is not the reply to this one.
CREATE UNIQUE INDEX refund_provider_id ON refund (payment_id, provider_refund_id) WHERE provider_refund_id IS NOT NULL;
CREATE INDEX refund_unknown ON refund (moved_at) WHERE state = 'unknown';

-- The rows that are there moved when they were last changed, as far as anybody knows.
ALTER TABLE payment DISABLE TRIGGER USER;
UPDATE payment SET moved_at = updated_at;
ALTER TABLE payment ENABLE TRIGGER USER;
ALTER TABLE refund DISABLE TRIGGER USER;
UPDATE refund SET moved_at = updated_at;
ALTER TABLE refund ENABLE TRIGGER USER;

-- A report never keeps our own payment from its id: the report yields and says which payment it was of.
DROP INDEX payment_external_id;
CREATE UNIQUE INDEX payment_external_id ON payment (external_id, provider) WHERE same_as IS NULL;
-- A partial index serves only those who ask for what it holds; the search shows merged reports too.
CREATE INDEX payment_any_external_id ON payment (external_id, created_at, id);
CREATE INDEX payment_moved ON payment (moved_at) WHERE state IN ('pending', 'unknown');
"""

LAWS = """
CREATE OR REPLACE FUNCTION payment_starts() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    today payment_config%ROWTYPE;
BEGIN
    IF NEW.refunded_amount <> 0 OR NEW.reserved_amount <> 0 OR NEW.same_as IS NOT NULL THEN
        PERFORM break_law('payment_starts_sending', 'a payment starts with nothing refunded, as itself');
    END IF;
    IF NEW.source = 'client' THEN
        IF NEW.state <> 'unknown' THEN
            PERFORM break_law('payment_starts_sending', 'a payment that a client reports starts as unknown');
        END IF;
        RETURN NEW;
    END IF;
    SELECT * INTO today FROM payment_config WHERE shop_id = NEW.shop_id FOR SHARE;
    IF NOT FOUND OR NOT today.is_active OR today.version <> NEW.route_version
       OR today.provider <> NEW.provider OR today.organization_bin <> NEW.organization_bin
       OR today.device_token_id IS DISTINCT FROM NEW.device_token_id THEN
        PERFORM break_law('payment_route_is_current', 'the payment is not on today''s route of its shop');
    END IF;
    IF NEW.state <> 'sending' THEN
        PERFORM break_law('payment_starts_sending', 'a payment starts as sending, with nothing refunded');
    END IF;
    RETURN NEW;
END $$;

-- Whose account a reported payment is on must be what that line of the shop's history says.
CREATE FUNCTION payment_route_is_of_history() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.source = 'client' AND NEW.route_version IS NOT NULL AND NOT EXISTS (
        SELECT FROM payment_config_history AS line
        WHERE line.shop_id = NEW.shop_id AND line.version = NEW.route_version
          AND line.organization_bin = NEW.organization_bin AND line.provider = NEW.provider
          AND line.device_token_id IS NOT DISTINCT FROM NEW.device_token_id
    ) THEN
        PERFORM break_law('payment_route_is_of_history', 'the payment is not on that route of its shop');
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER payment_route_is_of_history BEFORE INSERT OR UPDATE ON payment
    FOR EACH ROW EXECUTE FUNCTION payment_route_is_of_history();

CREATE OR REPLACE FUNCTION payment_changes() RETURNS trigger LANGUAGE plpgsql AS $$
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
    IF OLD.external_id IS NOT NULL AND NEW.external_id IS DISTINCT FROM OLD.external_id THEN
        PERFORM break_law('payment_external_id_is_fixed', 'a payment never gets another external_id');
    END IF;
    IF OLD.same_as IS NOT NULL AND (NEW.same_as, NEW.state) IS DISTINCT FROM (OLD.same_as, OLD.state) THEN
        PERFORM break_law('payment_merged_is_fixed', 'a report that was merged into a payment stays as it is');
    END IF;
    IF NEW.state <> OLD.state THEN
        IF (OLD.state, NEW.state) NOT IN (
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

CREATE FUNCTION refund_moved() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.moved_at := now();
    RETURN NEW;
END $$;
CREATE TRIGGER refund_moved BEFORE UPDATE OF state ON refund
    FOR EACH ROW WHEN (OLD.state IS DISTINCT FROM NEW.state) EXECUTE FUNCTION refund_moved();
"""


def upgrade() -> None:
    run_script(op.get_bind(), COLUMNS)
    run_script(op.get_bind(), LAWS)


def downgrade() -> None:
    op.execute(text("SELECT break_law('no_way_back', 'reports and reasons are part of the record: they stay')"))
