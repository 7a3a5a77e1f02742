"""Changes of routing that wait for a second person, and what the console tells of sellers, of the record and of health.

Whether a change of where money goes needs two people is a row of the database, which ``migrate`` writes from
``ROUTE_CHANGE_NEEDS_TWO``: so it holds for every process and every command, whatever their environment says, and the
service's own role cannot switch it off.
"""

from alembic import op
from sqlalchemy import text

from payment_service.postgres.schema import run_script

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

RULE = """
CREATE TABLE route_rule (
    id smallint PRIMARY KEY CHECK (id = 1),
    needs_two boolean NOT NULL
);
CREATE TRIGGER route_rule_kept BEFORE DELETE ON route_rule FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER route_rule_no_truncate BEFORE TRUNCATE ON route_rule
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

CREATE FUNCTION route_change_needs_two() RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT coalesce((SELECT needs_two FROM route_rule), false)
$$;
"""

CHANGES = """
CREATE TABLE route_change (
    id uuid PRIMARY KEY,
    shop_id integer NOT NULL,
    -- The version of the route that it was proposed for: it is applied onto that one and no other.
    on_version integer NOT NULL,
    organization_bin varchar(12) NOT NULL CHECK (bin_is_valid(organization_bin)),
    device_token varchar(9),
    device_token_id integer REFERENCES device_token (id),
    is_active boolean NOT NULL,
    provider varchar(20) NOT NULL DEFAULT 'kaspi' CHECK (provider IN ('kaspi')),
    name varchar(200) NOT NULL,
    city varchar(100) NOT NULL,
    description varchar(500) NOT NULL,
    reason varchar(500) NOT NULL CHECK (btrim(reason) <> ''),
    state varchar(10) NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'applied', 'refused', 'overdue')),
    proposed_by integer NOT NULL REFERENCES person (id),
    decided_by integer REFERENCES person (id),
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    decided_at timestamptz,
    CHECK ((device_token IS NULL) = (device_token_id IS NULL)),
    FOREIGN KEY (shop_id, on_version) REFERENCES payment_config_history (shop_id, version),
    CONSTRAINT route_change_is_short CHECK (expires_at <= created_at + interval '7 days'),
    CONSTRAINT route_change_decided CHECK (
        (state = 'waiting') = (decided_at IS NULL) AND (state IN ('applied', 'refused')) = (decided_by IS NOT NULL)),
    CONSTRAINT route_change_by_two CHECK (state <> 'applied' OR decided_by <> proposed_by)
);
CREATE UNIQUE INDEX route_change_one_waiting ON route_change (shop_id) WHERE state = 'waiting';
CREATE INDEX route_change_shop ON route_change (shop_id, created_at, id);

CREATE FUNCTION is_admin(of_person integer) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (SELECT FROM person WHERE id = of_person AND role = 'admin' AND disabled_at IS NULL)
$$;

CREATE FUNCTION route_change_laws() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    today integer := (SELECT version FROM payment_config WHERE shop_id = NEW.shop_id FOR UPDATE);
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF NEW.state <> 'waiting' OR NEW.created_at <> now() THEN
            PERFORM break_law('route_change_starts_waiting', 'a change of routing begins by waiting');
        END IF;
        IF NOT is_admin(NEW.proposed_by) THEN
            PERFORM break_law('route_change_by_admins', 'only administrators propose and confirm a change of routing');
        END IF;
        IF today IS DISTINCT FROM NEW.on_version THEN
            PERFORM break_law('route_change_of_this_route', 'a change is proposed for the route of today');
        END IF;
        RETURN NEW;
    END IF;
    IF OLD.state <> 'waiting' OR NEW.state = 'waiting' OR NEW.decided_at <> now()
       OR (to_jsonb(NEW) - '{state,decided_by,decided_at}'::text[])
          <> (to_jsonb(OLD) - '{state,decided_by,decided_at}'::text[]) THEN
        PERFORM break_law('route_change_once', 'a change is decided once, and what was proposed stays as it is');
    END IF;
    IF NEW.state = 'overdue' AND now() < OLD.expires_at AND today = OLD.on_version THEN
        PERFORM break_law('route_change_in_time', 'a change that can still be applied is not overdue');
    END IF;
    IF NEW.state <> 'overdue' AND NOT is_admin(NEW.decided_by) THEN
        PERFORM break_law('route_change_by_admins', 'only administrators propose and confirm a change of routing');
    END IF;
    IF NEW.state = 'applied' AND (now() >= OLD.expires_at OR NOT is_admin(OLD.proposed_by)) THEN
        PERFORM break_law('route_change_in_time', 'a change is applied before it expires, while its proposer may');
    END IF;
    IF NEW.state = 'applied' AND today NOT IN (OLD.on_version, OLD.on_version + 1) THEN
        PERFORM break_law('route_change_of_this_route', 'a change is applied onto the route it was proposed for');
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER route_change_laws BEFORE INSERT OR UPDATE ON route_change
    FOR EACH ROW EXECUTE FUNCTION route_change_laws();
CREATE TRIGGER route_change_kept BEFORE DELETE ON route_change FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER route_change_no_truncate BEFORE TRUNCATE ON route_change
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- What was applied is what was proposed: the next version of that shop's route, made in the same transaction.
CREATE FUNCTION route_change_is_applied() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM payment_config_history AS made
        WHERE made.shop_id = NEW.shop_id AND made.version = NEW.on_version + 1 AND made.created_at = NEW.decided_at
          AND (made.organization_bin, made.provider, made.is_active, made.name, made.city, made.description)
              = (NEW.organization_bin, NEW.provider, NEW.is_active, NEW.name, NEW.city, NEW.description)
          AND made.device_token_id IS NOT DISTINCT FROM NEW.device_token_id
    ) THEN
        PERFORM break_law('route_change_is_applied', 'a change that is applied is the next version of the route');
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER route_change_is_applied AFTER UPDATE ON route_change
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.state = 'applied')
    EXECUTE FUNCTION route_change_is_applied();

-- While two people are needed, money goes elsewhere by no other way.
CREATE FUNCTION route_changes_by_two() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF route_change_needs_two() AND NOT EXISTS (
        SELECT FROM route_change
        WHERE shop_id = OLD.shop_id AND on_version = OLD.version AND state = 'applied' AND decided_at = now()
          AND (organization_bin, provider) = (NEW.organization_bin, NEW.provider)
          AND device_token_id IS NOT DISTINCT FROM NEW.device_token_id
    ) THEN
        PERFORM break_law('route_change_needs_two', 'a change of where money goes needs a second administrator');
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER payment_config_by_two AFTER UPDATE ON payment_config
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN ((OLD.organization_bin, OLD.provider, OLD.device_token_id)
          IS DISTINCT FROM (NEW.organization_bin, NEW.provider, NEW.device_token_id))
    EXECUTE FUNCTION route_changes_by_two();
"""

# As in 0011, and a change of routing with the rule that it is under.
RECORD = """
ALTER FUNCTION audited_content(text, text) RENAME TO audited_content_before_route_changes;
CREATE FUNCTION audited_content(kind text, of_row text) RETURNS text
LANGUAGE plpgsql STABLE SET timezone = 'UTC' AS $$
BEGIN
    IF kind = 'route_change' THEN
        RETURN (
            SELECT jsonb_build_object(
                'id', id, 'shop_id', shop_id, 'on_version', on_version, 'organization_bin', organization_bin,
                'device_token', device_token, 'device_token_id', device_token_id, 'is_active', is_active,
                'provider', provider, 'name', name, 'city', city, 'description', description, 'reason', reason,
                'state', state, 'proposed_by', proposed_by, 'decided_by', decided_by, 'created_at', created_at,
                'expires_at', expires_at, 'decided_at', decided_at)
            FROM route_change WHERE id = of_row::uuid)::text;
    ELSIF kind = 'route_rule' THEN
        RETURN (
            SELECT jsonb_build_object('id', id, 'needs_two', needs_two)
            FROM route_rule WHERE id = of_row::smallint)::text;
    END IF;
    RETURN audited_content_before_route_changes(kind, of_row);
END $$;

CREATE OR REPLACE VIEW audited_today AS
    SELECT kind || ':' || of_row AS subject, audited_content(kind, of_row) AS content FROM (
        SELECT 'payment_config' AS kind, shop_id::text AS of_row FROM payment_config
        UNION ALL SELECT 'device_token', id::text FROM device_token
        UNION ALL SELECT 'fingerprint_key', id::text FROM fingerprint_key
        UNION ALL SELECT 'api_key', id::text FROM api_key
        UNION ALL SELECT 'webhook_endpoint', id::text FROM webhook_endpoint
        UNION ALL SELECT 'notify_chat', id::text FROM notify_chat
        UNION ALL SELECT 'notify_binding', id::text FROM notify_binding
        UNION ALL SELECT 'person', id::text FROM person
        UNION ALL SELECT 'route_change', id::text FROM route_change
        UNION ALL SELECT 'route_rule', id::text FROM route_rule
    ) AS rows_of_today;

CREATE CONSTRAINT TRIGGER route_change_is_audited AFTER INSERT OR UPDATE ON route_change
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION change_is_audited('id');
CREATE CONSTRAINT TRIGGER route_rule_is_audited AFTER INSERT OR UPDATE ON route_rule
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION change_is_audited('id');
"""

READING = """
-- The last payment of a shop that did not get as far as its buyer, among many that did.
CREATE INDEX payment_trouble ON payment (shop_id, created_at, id)
    WHERE failure IN ('not_sent', 'refused', 'rejected');
-- All lines of one request. By its hash: a request has few lines, and its id is as long as a row's other columns.
CREATE INDEX payment_log_request ON payment_log USING hash (request_id);

-- When the record was last found to be whole, and how far: what `audit verify` said.
CREATE TABLE audit_check (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    first_seq bigint NOT NULL CHECK (first_seq > 0),
    last_seq bigint NOT NULL CHECK (last_seq >= first_seq),
    last_hash varchar(64) NOT NULL CHECK (last_hash ~ '^[0-9a-f]{64}$'),
    row_count bigint NOT NULL CHECK (row_count > 0),
    actor varchar(100) NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE TRIGGER audit_check_insert_only BEFORE UPDATE OR DELETE ON audit_check
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER audit_check_no_truncate BEFORE TRUNCATE ON audit_check
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- That a worker lives: one row for each, which it writes anew at every sweep.
CREATE TABLE worker_tick (
    id uuid PRIMARY KEY,
    host varchar(100) NOT NULL,
    version varchar(50) NOT NULL,
    began_at timestamptz NOT NULL DEFAULT now(),
    ticked_at timestamptz NOT NULL DEFAULT now()
);
"""

PATHS = """
-- As 0008 says: a law reads the tables that it was made for.
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
    for part in (RULE, CHANGES, RECORD, READING, PATHS):
        run_script(op.get_bind(), part)


def downgrade() -> None:
    op.execute(text("SELECT break_law('no_way_back', 'who proposed and who confirmed a change is part of the record')"))
