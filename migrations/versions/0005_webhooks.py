"""Webhooks out: endpoints, what is to be delivered to each, and every try.

A delivery begins as waiting and ends as delivered or dead, each by a try that says so. What has ended is never changed
or deleted: who wants it sent again gets a new delivery. Tries are inserted and never changed.
"""

from alembic import op
from sqlalchemy import text

from payment_service.postgres.schema import run_script

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

WEBHOOKS = """
CREATE TABLE webhook_endpoint (
    id uuid PRIMARY KEY,
    url varchar(2000) NOT NULL CHECK (url ~* '^https?://'),
    description varchar(500) NOT NULL DEFAULT '',
    events varchar(30)[] CHECK (cardinality(events) > 0),
    shops integer[] CHECK (cardinality(shops) > 0),
    secret_ciphertext text NOT NULL,
    previous_secret_ciphertext text,
    previous_secret_until timestamptz,
    headers_ciphertext text,
    is_active boolean NOT NULL DEFAULT true,
    off_reason varchar(10) CHECK (off_reason IN ('person', 'gone', 'failing')),
    off_since timestamptz,
    failing_since timestamptz,
    version integer NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT webhook_endpoint_off_has_its_reason CHECK (
        is_active = (off_reason IS NULL) AND is_active = (off_since IS NULL)),
    CONSTRAINT webhook_endpoint_previous_secret_ends CHECK (
        (previous_secret_ciphertext IS NULL) = (previous_secret_until IS NULL))
);
CREATE FUNCTION webhook_endpoint_changes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' OR (NEW.id, NEW.created_at) IS DISTINCT FROM (OLD.id, OLD.created_at) THEN
        PERFORM break_law('webhook_endpoint_kept', 'an endpoint is switched off, never deleted');
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER webhook_endpoint_kept BEFORE UPDATE OR DELETE ON webhook_endpoint
    FOR EACH ROW EXECUTE FUNCTION webhook_endpoint_changes();
CREATE FUNCTION webhook_endpoint_next_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.version := OLD.version + 1;
    NEW.updated_at := now();
    RETURN NEW;
END $$;
-- What people decide about; how it fares, and which key its secrets are encrypted with, is no new version.
CREATE TRIGGER webhook_endpoint_version BEFORE UPDATE ON webhook_endpoint FOR EACH ROW
    WHEN ((OLD.url, OLD.description, OLD.events, OLD.shops, OLD.is_active, OLD.off_reason, OLD.version)
          IS DISTINCT FROM
          (NEW.url, NEW.description, NEW.events, NEW.shops, NEW.is_active, NEW.off_reason, NEW.version))
    EXECUTE FUNCTION webhook_endpoint_next_version();
CREATE TRIGGER webhook_endpoint_no_truncate BEFORE TRUNCATE ON webhook_endpoint
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

CREATE TABLE event_delivery (
    id uuid PRIMARY KEY,
    event_id uuid NOT NULL REFERENCES event (id),
    endpoint_id uuid NOT NULL REFERENCES webhook_endpoint (id),
    type varchar(30) NOT NULL,
    subject_id varchar(50) NOT NULL,
    version integer NOT NULL,
    shop_id integer,
    replay_of uuid UNIQUE REFERENCES event_delivery (id),
    state varchar(10) NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'delivered', 'dead')),
    tries integer NOT NULL DEFAULT 0 CHECK (tries >= 0),
    next_try_at timestamptz,
    trying_until timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    ended_at timestamptz,
    CONSTRAINT event_delivery_waits_or_has_ended CHECK (
        (state = 'waiting') = (next_try_at IS NOT NULL) AND (state = 'waiting') = (ended_at IS NULL)
        AND (state = 'waiting' OR trying_until IS NULL))
);
-- One event goes to an endpoint once, and again only by replaying what has ended.
CREATE UNIQUE INDEX event_delivery_once ON event_delivery (event_id, endpoint_id) WHERE replay_of IS NULL;
CREATE UNIQUE INDEX event_delivery_one_waiting ON event_delivery (event_id, endpoint_id) WHERE state = 'waiting';
CREATE INDEX event_delivery_due ON event_delivery (endpoint_id, next_try_at, id) WHERE state = 'waiting';
CREATE INDEX event_delivery_order ON event_delivery (endpoint_id, subject_id) WHERE state = 'waiting';
CREATE INDEX event_delivery_time ON event_delivery (created_at, id);
CREATE INDEX event_delivery_endpoint ON event_delivery (endpoint_id, created_at, id);
CREATE INDEX event_delivery_endpoint_state ON event_delivery (endpoint_id, state, created_at, id);
CREATE INDEX event_delivery_state ON event_delivery (state, created_at, id);
CREATE INDEX event_delivery_type ON event_delivery (type, created_at, id);
CREATE INDEX event_delivery_event ON event_delivery (event_id, created_at, id);

CREATE TABLE delivery_try (
    delivery_id uuid NOT NULL REFERENCES event_delivery (id),
    number integer NOT NULL CHECK (number > 0),
    succeeded boolean NOT NULL,
    status smallint CHECK (status BETWEEN 100 AND 999),
    error varchar(200),
    answer varchar(500),
    duration_ms integer NOT NULL CHECK (duration_ms >= 0),
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (delivery_id, number),
    CONSTRAINT delivery_try_tells_what_came CHECK ((status IS NULL) = (error IS NOT NULL)),
    CONSTRAINT delivery_try_succeeds_by_2xx CHECK (succeeded = coalesce(status BETWEEN 200 AND 299, false))
);
CREATE TRIGGER delivery_try_insert_only BEFORE UPDATE OR DELETE ON delivery_try
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER delivery_try_no_truncate BEFORE TRUNCATE ON delivery_try
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
REVOKE UPDATE, DELETE, TRUNCATE ON delivery_try FROM PUBLIC;

CREATE FUNCTION event_delivery_changes() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    last_succeeded boolean;
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF NEW.state <> 'waiting' OR NEW.tries <> 0 THEN
            PERFORM break_law('event_delivery_starts_waiting', 'a delivery starts as waiting, without tries');
        END IF;
        IF NOT EXISTS (SELECT FROM event WHERE id = NEW.event_id AND type = NEW.type AND version = NEW.version
                       AND subject_id = NEW.subject_id AND shop_id IS NOT DISTINCT FROM NEW.shop_id) THEN
            PERFORM break_law('event_delivery_of_its_event', 'a delivery says of its event what the event says');
        END IF;
        RETURN NEW;
    END IF;
    IF TG_OP = 'DELETE' THEN
        PERFORM break_law('event_delivery_kept', 'a delivery is never deleted');
    END IF;
    IF OLD.state <> 'waiting' THEN
        PERFORM break_law('event_delivery_ended', 'a delivery that has ended is never changed');
    END IF;
    IF (NEW.id, NEW.event_id, NEW.endpoint_id, NEW.type, NEW.subject_id, NEW.version, NEW.shop_id, NEW.replay_of,
        NEW.created_at)
       IS DISTINCT FROM
       (OLD.id, OLD.event_id, OLD.endpoint_id, OLD.type, OLD.subject_id, OLD.version, OLD.shop_id, OLD.replay_of,
        OLD.created_at) THEN
        PERFORM break_law('event_delivery_fixed', 'what a delivery is of is never changed');
    END IF;
    IF NEW.tries NOT IN (OLD.tries, OLD.tries + 1) THEN
        PERFORM break_law('event_delivery_counts_tries', 'tries are counted one by one');
    END IF;
    IF NEW.tries > OLD.tries OR NEW.state <> OLD.state THEN
        SELECT succeeded INTO last_succeeded FROM delivery_try WHERE delivery_id = NEW.id AND number = NEW.tries;
        IF last_succeeded IS NULL OR last_succeeded <> (NEW.state = 'delivered') THEN
            PERFORM break_law('event_delivery_ends_by_a_try', 'a delivery moves by a try that says so');
        END IF;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER event_delivery_laws BEFORE INSERT OR UPDATE OR DELETE ON event_delivery
    FOR EACH ROW EXECUTE FUNCTION event_delivery_changes();
CREATE TRIGGER event_delivery_no_truncate BEFORE TRUNCATE ON event_delivery
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
"""


def upgrade() -> None:
    run_script(op.get_bind(), WEBHOOKS)


def downgrade() -> None:
    op.execute(text("SELECT break_law('no_way_back', 'what was delivered, and what was not, would be forgotten')"))
