"""People who sign in to the console: accounts, their sessions, and the one-time links that set a password.

What may be seen hangs on these rows, so the rules are here as well as in the code: a name in the record means one
person for good, a florist has a list of shops, a session lasts 12 hours at most and ends with the password, the role
and the account that it was begun with, and a link works once.
"""

from alembic import op
from sqlalchemy import text

from payment_service.postgres.schema import run_script

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

PEOPLE = """
CREATE TABLE person (
    id serial PRIMARY KEY,
    email varchar(64) NOT NULL CONSTRAINT person_email UNIQUE
        CHECK (email = lower(email) AND email ~ '^[^@[:space:]]+@[^@[:space:]]+$'),
    name varchar(100) NOT NULL CHECK (name <> ''),
    role varchar(10) NOT NULL CHECK (role IN ('florist', 'operator', 'accountant', 'admin')),
    shops integer[],
    -- Tiyn that this person may pay back of one payment, with what was paid back before; NULL is no limit.
    refund_limit bigint CHECK (refund_limit >= 0),
    password_hash varchar(200) CHECK (password_hash LIKE '$argon2id$%'),
    password_set_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    disabled_at timestamptz,
    -- NULL is every shop, and a florist never has that.
    CONSTRAINT person_florist_has_shops CHECK (role <> 'florist' OR shops IS NOT NULL),
    CONSTRAINT person_admin_of_all_shops CHECK (role <> 'admin' OR shops IS NULL),
    CONSTRAINT person_password_has_its_time CHECK ((password_hash IS NULL) = (password_set_at IS NULL))
);

CREATE TABLE person_link (
    digest varchar(64) PRIMARY KEY CHECK (digest ~ '^[0-9a-f]{64}$'),
    person_id integer NOT NULL REFERENCES person (id),
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    used_at timestamptz,
    CONSTRAINT person_link_is_short CHECK (expires_at <= created_at + interval '3 days')
);
-- The newest link is the one that works.
CREATE UNIQUE INDEX person_link_one_open ON person_link (person_id) WHERE used_at IS NULL;

CREATE TABLE person_session (
    digest varchar(64) PRIMARY KEY CHECK (digest ~ '^[0-9a-f]{64}$'),
    person_id integer NOT NULL REFERENCES person (id),
    created_at timestamptz NOT NULL DEFAULT now(),
    proved_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    ended_at timestamptz,
    CONSTRAINT person_session_is_short CHECK (expires_at <= created_at + interval '12 hours')
);
CREATE INDEX person_session_open ON person_session (person_id) WHERE ended_at IS NULL;

CREATE FUNCTION person_changes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (NEW.id, NEW.email, NEW.created_at) IS DISTINCT FROM (OLD.id, OLD.email, OLD.created_at)
       OR (OLD.disabled_at IS NOT NULL AND NEW.disabled_at IS DISTINCT FROM OLD.disabled_at) THEN
        PERFORM break_law('person_fixed', 'whom an e-mail address means never changes, and who is disabled stays so');
    END IF;
    IF (NEW.role, NEW.shops, NEW.refund_limit, NEW.password_hash, NEW.disabled_at)
       IS DISTINCT FROM (OLD.role, OLD.shops, OLD.refund_limit, OLD.password_hash, OLD.disabled_at) THEN
        UPDATE person_session SET ended_at = now() WHERE person_id = NEW.id AND ended_at IS NULL;
    END IF;
    IF (NEW.password_hash, NEW.disabled_at) IS DISTINCT FROM (OLD.password_hash, OLD.disabled_at) THEN
        UPDATE person_link SET used_at = now() WHERE person_id = NEW.id AND used_at IS NULL;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER person_changes BEFORE UPDATE ON person FOR EACH ROW EXECUTE FUNCTION person_changes();

CREATE FUNCTION person_link_changes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF (SELECT disabled_at IS NOT NULL FROM person WHERE id = NEW.person_id FOR SHARE) THEN
            PERFORM break_law('person_link_of_an_account', 'a disabled account gets no link');
        END IF;
        UPDATE person_link SET used_at = now() WHERE person_id = NEW.person_id AND used_at IS NULL;
    ELSIF OLD.used_at IS NOT NULL
       OR (NEW.digest, NEW.person_id, NEW.created_at, NEW.expires_at)
          IS DISTINCT FROM (OLD.digest, OLD.person_id, OLD.created_at, OLD.expires_at) THEN
        PERFORM break_law('person_link_once', 'a link works once, and nothing else of it changes');
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER person_link_changes BEFORE INSERT OR UPDATE ON person_link
    FOR EACH ROW EXECUTE FUNCTION person_link_changes();

CREATE FUNCTION person_session_changes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        -- The lock lets a change of the account and the beginning of a session wait for each other.
        IF NOT (SELECT disabled_at IS NULL AND password_hash IS NOT NULL
                FROM person WHERE id = NEW.person_id FOR SHARE) THEN
            PERFORM break_law('person_session_of_an_account', 'only an account with a password signs in');
        END IF;
    ELSIF OLD.ended_at IS NOT NULL
       OR NEW.proved_at < OLD.proved_at OR NEW.proved_at > now()
       OR (NEW.digest, NEW.person_id, NEW.created_at, NEW.expires_at)
          IS DISTINCT FROM (OLD.digest, OLD.person_id, OLD.created_at, OLD.expires_at) THEN
        PERFORM break_law('person_session_fixed', 'a session that ended stays so, and whose it is never changes');
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER person_session_changes BEFORE INSERT OR UPDATE ON person_session
    FOR EACH ROW EXECUTE FUNCTION person_session_changes();
"""

KEPT = """
CREATE TRIGGER person_kept BEFORE DELETE ON person FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER person_no_truncate BEFORE TRUNCATE ON person FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER person_link_kept BEFORE DELETE ON person_link FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER person_link_no_truncate BEFORE TRUNCATE ON person_link
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER person_session_kept BEFORE DELETE ON person_session FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER person_session_no_truncate BEFORE TRUNCATE ON person_session
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
"""

# As in 0008, and a person. A sign-in changes nothing of these, and its entry says what the account holds at that time.
RECORD = """
ALTER FUNCTION audited_content(text, text) RENAME TO audited_content_before_people;
CREATE FUNCTION audited_content(kind text, of_row text) RETURNS text
LANGUAGE plpgsql STABLE SET timezone = 'UTC' AS $$
BEGIN
    IF kind <> 'person' THEN
        RETURN audited_content_before_people(kind, of_row);
    END IF;
    RETURN (
        SELECT jsonb_build_object(
            'id', id, 'email', email, 'name', name, 'role', role, 'shops', shops, 'refund_limit', refund_limit,
            'password', sha256_of(password_hash), 'password_set_at', password_set_at,
            'created_at', created_at, 'disabled_at', disabled_at)
        FROM person WHERE id = of_row::integer)::text;
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
    ) AS rows_of_today;

CREATE CONSTRAINT TRIGGER person_is_audited AFTER INSERT OR UPDATE ON person
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION change_is_audited('id');
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
    for part in (PEOPLE, KEPT, RECORD, PATHS):
        run_script(op.get_bind(), part)


def downgrade() -> None:
    op.execute(text("SELECT break_law('no_way_back', 'who did what is part of the record: it names these people')"))
