"""Events: what happened to payments, refunds and routes, written in the transaction that made it happen.

An event is never changed. Whoever passes events on notes on it that it has done so; everybody who waits for one hears
of it by NOTIFY. Payments and refunds carry a version, so that whoever is told twice, or late, can tell.
"""

from alembic import op
from sqlalchemy import text

from payment_service.postgres.schema import run_script

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

EVENTS = """
ALTER TABLE payment ADD COLUMN version integer NOT NULL DEFAULT 1;
ALTER TABLE refund ADD COLUMN version integer NOT NULL DEFAULT 1;

CREATE FUNCTION next_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.version := OLD.version + 1;
    RETURN NEW;
END $$;
-- What callers see of a payment has changed; when it is asked about next is nobody's business.
CREATE TRIGGER payment_version BEFORE UPDATE ON payment FOR EACH ROW
    WHEN ((OLD.state, OLD.status, OLD.external_id, OLD.payment_link, OLD.expire_date, OLD.refunded_amount, OLD.amount,
           OLD.organization_bin, OLD.same_as, OLD.version)
          IS DISTINCT FROM
          (NEW.state, NEW.status, NEW.external_id, NEW.payment_link, NEW.expire_date, NEW.refunded_amount, NEW.amount,
           NEW.organization_bin, NEW.same_as, NEW.version))
    EXECUTE FUNCTION next_version();
CREATE TRIGGER refund_version BEFORE UPDATE ON refund FOR EACH ROW
    WHEN ((OLD.state, OLD.provider_refund_id, OLD.version) IS DISTINCT FROM
          (NEW.state, NEW.provider_refund_id, NEW.version))
    EXECUTE FUNCTION next_version();

CREATE TABLE event (
    id uuid PRIMARY KEY,
    type varchar(30) NOT NULL CHECK (type IN (
        'payment.pending', 'payment.paid', 'payment.failed', 'payment.cancelled', 'payment.unknown',
        'payment.late_success', 'refund.succeeded', 'refund.failed', 'refund.unknown', 'route.changed',
        'endpoint.disabled', 'endpoint.recovered', 'test')),
    subject varchar(10) NOT NULL CHECK (subject IN ('payment', 'refund', 'route', 'endpoint', 'test')),
    subject_id varchar(50) NOT NULL,
    version integer NOT NULL CHECK (version > 0),
    shop_id integer,
    data jsonb NOT NULL CHECK (jsonb_typeof(data) = 'object' AND octet_length(data::text) < 20000),
    created_at timestamptz NOT NULL DEFAULT now(),
    passed_on_at timestamptz
);
CREATE INDEX event_time ON event (created_at, id);
CREATE INDEX event_type ON event (type, created_at, id);
CREATE INDEX event_shop ON event (shop_id, created_at, id);
CREATE INDEX event_subject ON event (subject_id, version);
CREATE INDEX event_waiting ON event (created_at, id) WHERE passed_on_at IS NULL;

CREATE FUNCTION event_changes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        PERFORM pg_notify('event_written', json_build_object(
            'id', NEW.id, 'type', NEW.type, 'subject_id', NEW.subject_id, 'shop_id', NEW.shop_id)::text);
        RETURN NEW;
    END IF;
    IF TG_OP = 'DELETE' OR OLD.passed_on_at IS NOT NULL
       OR to_jsonb(NEW) - 'passed_on_at' IS DISTINCT FROM to_jsonb(OLD) - 'passed_on_at' THEN
        PERFORM break_law('event_fixed', 'an event is never changed');
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER event_fixed BEFORE INSERT OR UPDATE OR DELETE ON event
    FOR EACH ROW EXECUTE FUNCTION event_changes();
CREATE TRIGGER event_no_truncate BEFORE TRUNCATE ON event
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
"""


def upgrade() -> None:
    run_script(op.get_bind(), EVENTS)


def downgrade() -> None:
    op.execute(text("SELECT break_law('no_way_back', 'events that nobody has been told of yet would be lost')"))
