"""``payment_log`` in partitions, one for each month, so that an old month can leave the database as one piece.

Nothing is copied: the table that is there becomes the first partition. What takes long (reading its rows once) is done
before, without a lock that a payment meets; what needs such a lock is one transaction of some milliseconds, begun again
when it does not get the lock at once. A run that was cut off is taken up by the next one.

PostgreSQL keeps a rule like "never twice" in each partition alone, unless it holds the month too. So:

- ``id`` is a key in each partition, and over all of them because only the sequence gives one: the service's role may
  not name it.
- What a client reports is taken once (``payment_log_report``): its key is in a table without partitions.

Months are made ahead by ``make_log_months``, which every sweep of a worker calls. A row whose month was not made goes
to ``payment_log_default``: no payment waits for a partition.
"""

from datetime import UTC, datetime

from alembic import op
from sqlalchemy import text

from payment_service.postgres.schema import pinned, rewritten, run_briefly, run_script

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

ALL_VIEWS_FOLLOW = """
DO $$
DECLARE
    view text := (
        SELECT string_agg(ev_class::regclass::text, ', ')
        FROM pg_rewrite JOIN pg_depend ON classid = 'pg_rewrite'::regclass AND objid = pg_rewrite.oid
        JOIN pg_class ON pg_class.oid = ev_class AND relkind = 'm'
        WHERE refclassid = 'pg_class'::regclass AND refobjid = 'payment_log'::regclass);
BEGIN
    IF view IS NOT NULL THEN
        -- A plain view is made anew; this one would go on reading the first partition, and nobody would see it.
        PERFORM break_law('payment_log_read_by', view || ' is a materialized view of payment_log: drop it, migrate, '
            || 'and make it again');
    END IF;
END $$;
"""

REPORTS = """
CREATE TABLE IF NOT EXISTS report_taken (
    log_id bigint PRIMARY KEY,
    report_id varchar(64) NOT NULL,
    actor varchar(100) NOT NULL,
    shop_id integer,
    operation_type varchar(20) NOT NULL,
    external_id varchar(50),
    created_at timestamptz NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS report_taken_once ON report_taken
    (report_id, actor, shop_id, operation_type, coalesce(external_id, ''));

CREATE OR REPLACE FUNCTION take_report() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    INSERT INTO report_taken (log_id, report_id, actor, shop_id, operation_type, external_id, created_at)
        VALUES (NEW.id, NEW.report_id, NEW.actor, NEW.shop_id, NEW.operation_type, NEW.external_id, NEW.created_at);
    RETURN NEW;
END $$;
CREATE OR REPLACE TRIGGER report_taken_insert_only BEFORE UPDATE OR DELETE ON report_taken
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE OR REPLACE TRIGGER report_taken_no_truncate BEFORE TRUNCATE ON report_taken
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
"""

# After the row, so that the constraint that serving processes know is the one that is told until the end.
FROM_NOW_ON = """
CREATE OR REPLACE TRIGGER payment_log_report AFTER INSERT ON payment_log
    FOR EACH ROW WHEN (NEW.report_id IS NOT NULL) EXECUTE FUNCTION take_report();
"""
UNTIL_NOW = """
INSERT INTO report_taken (log_id, report_id, actor, shop_id, operation_type, external_id, created_at)
    SELECT id, report_id, actor, shop_id, operation_type, external_id, created_at
    FROM payment_log WHERE report_id IS NOT NULL
    ON CONFLICT DO NOTHING
"""

# With it PostgreSQL believes that every row is of the first partition, and reads none while everybody waits.
BOUND = """
ALTER TABLE payment_log DROP CONSTRAINT IF EXISTS payment_log_first_bound,
    ADD CONSTRAINT payment_log_first_bound CHECK (created_at < '{until}') NOT VALID
"""
UNBOUND = "ALTER TABLE payment_log DROP CONSTRAINT IF EXISTS payment_log_first_bound"
READ_ONCE = "ALTER TABLE payment_log VALIDATE CONSTRAINT payment_log_first_bound"

MONTHS = """
-- A law of the record is told by the record's name, whichever partition the row is in.
CREATE FUNCTION refuse_log_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM break_law('payment_log_insert_only', 'rows of payment_log are never changed');
    RETURN NULL;
END $$;

-- Until when a partition's rows were written; NULL of the one for what has none.
CREATE FUNCTION log_until(partition oid) RETURNS timestamptz LANGUAGE sql STABLE SET timezone = 'UTC' AS $$
    SELECT substring(pg_get_expr(relpartbound, oid) FROM $said$TO \\('([^']+)'\\)$said$)::timestamptz
    FROM pg_class WHERE oid = partition
$$;
CREATE FUNCTION log_months_until() RETURNS timestamptz LANGUAGE sql STABLE AS $$
    SELECT max(log_until(inhrelid)) FROM pg_inherits WHERE inhparent = 'payment_log'::regclass
$$;

-- Whether rows are in the partition for what has none.
CREATE FUNCTION log_rows_astray() RETURNS boolean LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
BEGIN
    RETURN EXISTS (SELECT FROM payment_log_default);
END $$;

-- A table that can become a partition: each has its own key and refuses TRUNCATE itself. Its indexes are made before it
-- is attached, and the other triggers come from the partitioned table then.
CREATE FUNCTION make_log_partition(called text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format(
        'CREATE TABLE %1$I (LIKE payment_log INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE'
        ' INCLUDING INDEXES, PRIMARY KEY (id))', called);
    EXECUTE format(
        'CREATE TRIGGER payment_log_no_truncate BEFORE TRUNCATE ON %1$I'
        ' FOR EACH STATEMENT EXECUTE FUNCTION refuse_log_change()', called);
END $$;

-- Make the months that are missing up to ``ahead`` after this one; returns how many were made. Whoever may add to the
-- record may call it: what it makes is fixed. Not PARTITION OF, for which everybody would wait: attaching takes no lock
-- that a payment meets.
CREATE FUNCTION make_log_months(ahead integer DEFAULT 3) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET timezone = 'UTC' SET lock_timeout = '300ms' AS $$
DECLARE
    made_until timestamptz := log_months_until();
    wanted timestamptz := date_trunc('month', now()) + make_interval(months => 1 + least(greatest(ahead, 1), 12));
    next_until timestamptz;
    called text;
    made integer := 0;
BEGIN
    IF made_until >= wanted OR NOT pg_try_advisory_xact_lock(hashtext('make_log_months')) THEN
        RETURN 0;
    END IF;
    made_until := log_months_until();
    IF EXISTS (SELECT FROM payment_log_default WHERE created_at >= made_until) THEN
        -- Months began that nobody had made. What took their rows becomes their partition: no row is moved.
        next_until := date_trunc('month', now()) + interval '1 month';
        IF EXISTS (SELECT FROM payment_log_default WHERE created_at < made_until OR created_at >= next_until) THEN
            PERFORM break_law('payment_log_default_of_one_time',
                'payment_log_default holds rows of other times too: docs/audit.md');
        ELSIF pg_table_size('payment_log_default') > 500000000 THEN
            PERFORM break_law('payment_log_default_is_small',
                'to read payment_log_default takes longer than a payment may wait: docs/audit.md');
        END IF;
        called := 'payment_log_' || to_char(made_until, 'YYYY_MM');
        LOCK TABLE payment_log IN ACCESS EXCLUSIVE MODE;
        ALTER TABLE payment_log DETACH PARTITION payment_log_default;
        EXECUTE format('ALTER TABLE payment_log_default RENAME TO %I', called);
        EXECUTE format('ALTER TABLE payment_log ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                       called, made_until, next_until);
        PERFORM make_log_partition('payment_log_default');
        ALTER TABLE payment_log ATTACH PARTITION payment_log_default DEFAULT;
        made_until := next_until;
        made := 1;
    END IF;
    -- All tables first: the lock on payment_log_default that attaching takes is for queries to wait for.
    FOR next_until IN SELECT generate_series(made_until, wanted - interval '1 month', '1 month') LOOP
        PERFORM make_log_partition('payment_log_' || to_char(next_until, 'YYYY_MM'));
    END LOOP;
    WHILE made_until < wanted LOOP
        next_until := made_until + interval '1 month';
        called := 'payment_log_' || to_char(made_until, 'YYYY_MM');
        EXECUTE format('ALTER TABLE payment_log ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                       called, made_until, next_until);
        made_until := next_until;
        made := made + 1;
    END LOOP;
    RETURN made;
END $$;
REVOKE ALL ON FUNCTION make_log_partition(text), make_log_months(integer) FROM PUBLIC;
"""

RETIRING = """
-- A partition that has left. Its rows are in a file. Its seals stay, and what they say of those rows is not checked.
CREATE TABLE audit_retired (
    partition varchar(40) PRIMARY KEY,
    until timestamptz NOT NULL,
    row_count bigint NOT NULL CHECK (row_count >= 0),
    first_seq bigint REFERENCES audit_seal (seq),
    last_seq bigint REFERENCES audit_seal (seq),
    -- Rows under those seals that are in other partitions, which stay.
    kept_ids bigint[] NOT NULL,
    file_sha256 varchar(64) CHECK (file_sha256 ~ '^[0-9a-f]{64}$'),
    actor varchar(100) NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT audit_retired_is_sealed CHECK (
        CASE WHEN row_count = 0 THEN num_nonnulls(first_seq, last_seq) = 0
        ELSE coalesce(first_seq <= last_seq, false) END)
);
CREATE TRIGGER audit_retired_insert_only BEFORE UPDATE OR DELETE ON audit_retired
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER audit_retired_no_truncate BEFORE TRUNCATE ON audit_retired
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

ALTER FUNCTION audited_content(text, text) RENAME TO audited_content_before_months;
CREATE FUNCTION audited_content(kind text, of_row text) RETURNS text
LANGUAGE plpgsql STABLE SET timezone = 'UTC' AS $$
BEGIN
    IF kind = 'audit_retired' THEN
        RETURN (
            SELECT jsonb_build_object(
                'partition', partition, 'until', until, 'row_count', row_count, 'first_seq', first_seq,
                'last_seq', last_seq, 'kept_ids', sha256_of(kept_ids::text), 'file_sha256', file_sha256,
                'actor', actor, 'created_at', created_at)
            FROM audit_retired WHERE partition = of_row)::text;
    END IF;
    RETURN audited_content_before_months(kind, of_row);
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
        UNION ALL SELECT 'audit_retired', partition FROM audit_retired
    ) AS rows_of_today;
CREATE CONSTRAINT TRIGGER audit_retired_is_audited AFTER INSERT ON audit_retired
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION change_is_audited('partition');

-- Take the oldest partition out of the record. The table stays as it is, and nothing is added to it any more.
CREATE FUNCTION retire_log_partition(called text, in_file text, by_whom text) RETURNS void
LANGUAGE plpgsql SET timezone = 'UTC' AS $$
DECLARE
    leaving audit_retired%ROWTYPE;
    oldest record;
    lowest bigint;
    highest bigint;
    is_open boolean;
BEGIN
    SELECT relname, log_until(oid) AS until INTO oldest FROM pg_class JOIN pg_inherits ON inhrelid = oid
    WHERE inhparent = 'payment_log'::regclass ORDER BY until LIMIT 1;
    IF oldest.relname IS DISTINCT FROM called THEN
        PERFORM break_law('audit_retired_oldest_first', 'the oldest partition of payment_log leaves first');
    END IF;
    IF oldest.until > date_trunc('month', now()) - interval '1 month' THEN
        PERFORM break_law('audit_retired_is_over', 'a month stays for a month after its end');
    END IF;
    EXECUTE format('SELECT min(id), max(id), count(*) FROM %I', called) INTO lowest, highest, leaving.row_count;
    IF highest > (SELECT coalesce(max(last_id), 0) FROM audit_seal) THEN
        PERFORM break_law('audit_retired_is_sealed', 'what leaves is sealed before');
    END IF;
    EXECUTE format($q$
        SELECT EXISTS (SELECT FROM payment AS open WHERE state IN ('sending', 'pending', 'unknown')
                       AND same_as IS NULL AND EXISTS (SELECT FROM %1$I WHERE payment_id = open.id))
            OR EXISTS (SELECT FROM refund AS open WHERE state IN ('sending', 'unknown')
                       AND EXISTS (SELECT FROM %1$I WHERE payment_id = open.payment_id)) $q$, called)
    INTO is_open;
    IF is_open THEN
        PERFORM break_law('audit_retired_is_ended', 'a payment or a refund of that time has not ended');
    END IF;
    SELECT min(seq), max(seq) INTO leaving.first_seq, leaving.last_seq FROM audit_seal
    WHERE last_id >= lowest AND after_id < highest;

    EXECUTE format('ALTER TABLE payment_log DETACH PARTITION %I', called);
    EXECUTE format('CREATE TRIGGER payment_log_insert_only BEFORE INSERT OR UPDATE OR DELETE ON %I'
                   ' FOR EACH ROW EXECUTE FUNCTION refuse_log_change()', called);
    SELECT coalesce(array_agg(id ORDER BY id), '{}') INTO leaving.kept_ids FROM payment_log
    WHERE id > (SELECT after_id FROM audit_seal WHERE seq = leaving.first_seq)
      AND id <= (SELECT last_id FROM audit_seal WHERE seq = leaving.last_seq);
    INSERT INTO audit_retired (partition, until, row_count, first_seq, last_seq, kept_ids, file_sha256, actor)
    VALUES (called, oldest.until, leaving.row_count, leaving.first_seq, leaving.last_seq, leaving.kept_ids, in_file,
            by_whom);
    INSERT INTO payment_log (operation_type, actor, source, subject, content)
    VALUES ('audit-retire', by_whom, 'service', 'audit_retired:' || called, audited_content('audit_retired', called));
    -- What the record says last of who may do what stays in it.
    EXECUTE format($q$
        INSERT INTO payment_log (operation_type, actor, source, subject, content, reason)
        SELECT 'baseline', $1, 'service', subject, content, 'row ' || id || ' has left with %1$s' FROM (
            SELECT DISTINCT ON (subject) subject, content, id FROM %1$I AS gone
            WHERE subject IS NOT NULL AND NOT EXISTS (SELECT FROM payment_log WHERE subject = gone.subject)
            ORDER BY subject, id DESC
        ) AS said $q$, called) USING by_whom;
    -- What others paid back of a payment stays too: whoever refunds it here counts that.
    EXECUTE format($q$
        INSERT INTO payment_log (shop_id, organization_bin, operation_type, external_id, amount, status, state,
                                 error_message, provider, payment_id, refund_id, actor, source, request_id, reason)
        SELECT shop_id, organization_bin, operation_type, external_id, amount, status, state,
               error_message, provider, payment_id, refund_id, actor, source, request_id,
               'row ' || id || ' has left with %1$s'
        FROM %1$I WHERE operation_type = 'refund' AND source IN ('client', 'legacy') AND external_id IS NOT NULL
        ORDER BY id $q$, called);
END $$;
REVOKE ALL ON FUNCTION retire_log_partition(text, text, text) FROM PUBLIC;
"""

# A settlement that has left the record is undone by nobody: whose it was is not known here.
UNDOING = rewritten(
    "move_is_audited",
    {"settled_by(of_payment, of_refund, NULL)": "coalesce(settled_by(of_payment, of_refund, NULL), actor)"},
)

# One transaction, under a lock for which payments wait: nothing here depends on how many rows there are.
SWITCH = """
-- What can be made before: the other partitions, with their indexes.
SET LOCAL timezone = 'UTC';
CREATE TEMP TABLE to_attach ON COMMIT DROP AS
    SELECT 'payment_log_default' AS called, NULL::timestamptz AS since
    UNION ALL
    SELECT 'payment_log_' || to_char(month, 'YYYY_MM'), month
    FROM generate_series('{until}'::timestamptz, date_trunc('month', now()) + interval '3 months', '1 month') AS month;
DO $$
DECLARE
    called text;
    once regclass;
BEGIN
    FOR called IN SELECT to_attach.called FROM to_attach LOOP
        EXECUTE format('CREATE TABLE %I (LIKE payment_log INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE'
                       ' INCLUDING INDEXES)', called);
        SELECT indexrelid INTO STRICT once FROM pg_index
        WHERE indrelid = called::regclass AND indisunique AND NOT indisprimary;
        EXECUTE format('DROP INDEX %s', once);
        EXECUTE format('ALTER TABLE %I DROP CONSTRAINT payment_log_first_bound', called);
        EXECUTE format('CREATE TRIGGER payment_log_no_truncate BEFORE TRUNCATE ON %I'
                       ' FOR EACH STATEMENT EXECUTE FUNCTION refuse_log_change()', called);
    END LOOP;
END $$;

-- Views first, as whoever reads through them does: no two wait for each other.
LOCK TABLE paymentlog IN ACCESS EXCLUSIVE MODE;
LOCK TABLE payment_log IN ACCESS EXCLUSIVE MODE;

CREATE TEMP TABLE of_the_record ON COMMIT DROP AS
    SELECT 'view' AS kind, view.oid::regclass::text AS name, pg_get_viewdef(view.oid) AS said
    FROM pg_class view
    WHERE relkind = 'v' AND oid IN (
        SELECT ev_class FROM pg_rewrite JOIN pg_depend ON classid = 'pg_rewrite'::regclass AND objid = pg_rewrite.oid
        WHERE refclassid = 'pg_class'::regclass AND refobjid = 'payment_log'::regclass)
    UNION ALL
    -- Whoever may add rows may say everything of them but their ids.
    SELECT 'grant', grantee::regrole::text, CASE WHEN privilege_type = 'INSERT' THEN (
        SELECT format('INSERT (%s)', string_agg(quote_ident(attname), ', ' ORDER BY attnum)) FROM pg_attribute
        WHERE attrelid = 'payment_log'::regclass AND attnum > 0 AND NOT attisdropped AND attname <> 'id'
    ) ELSE privilege_type END
    FROM pg_class, aclexplode(relacl)
    WHERE pg_class.oid = 'payment_log'::regclass AND grantee <> relowner AND grantee <> 0
    UNION ALL
    SELECT 'last id', '', last_value::text FROM payment_log_id_seq WHERE is_called;

-- The names go to the partitioned table.
ALTER TABLE payment_log ALTER id DROP IDENTITY;
ALTER TABLE payment_log RENAME TO payment_log_first;
DO $$
DECLARE
    index name;
BEGIN
    FOR index IN SELECT relname FROM pg_class JOIN pg_index ON indexrelid = oid
                 WHERE indrelid = 'payment_log_first'::regclass LOOP
        EXECUTE format('ALTER INDEX %I RENAME TO %I', index, replace(index, 'payment_log_', 'payment_log_first_'));
    END LOOP;
END $$;
DROP TRIGGER payment_log_insert_only ON payment_log_first;
DROP TRIGGER payment_log_no_truncate ON payment_log_first;
DROP TRIGGER payment_log_report ON payment_log_first;

CREATE TABLE payment_log (LIKE payment_log_first INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE)
    PARTITION BY RANGE (created_at);
ALTER TABLE payment_log DROP CONSTRAINT payment_log_first_bound;
ALTER TABLE payment_log ALTER id ADD GENERATED ALWAYS AS IDENTITY;
SELECT setval('payment_log_id_seq', said::bigint) FROM of_the_record WHERE kind = 'last id';

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
CREATE INDEX payment_log_subject ON payment_log (subject, id) WHERE subject IS NOT NULL;
CREATE INDEX payment_log_request ON payment_log USING hash (request_id);
ALTER INDEX report_taken_once RENAME TO payment_log_report;

CREATE TRIGGER payment_log_insert_only BEFORE UPDATE OR DELETE ON payment_log
    FOR EACH ROW EXECUTE FUNCTION refuse_log_change();
CREATE TRIGGER payment_log_no_truncate BEFORE TRUNCATE ON payment_log
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_log_change();
CREATE TRIGGER payment_log_no_truncate BEFORE TRUNCATE ON payment_log_first
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_log_change();
-- Before the row: the first partition keeps its own index of them, by which processes of before still look them up.
CREATE TRIGGER payment_log_report BEFORE INSERT ON payment_log
    FOR EACH ROW WHEN (NEW.report_id IS NOT NULL) EXECUTE FUNCTION take_report();

ALTER TABLE payment_log ATTACH PARTITION payment_log_first FOR VALUES FROM (MINVALUE) TO ('{until}');
ALTER TABLE payment_log_first DROP CONSTRAINT payment_log_first_bound;

DO $$
DECLARE
    one record;
BEGIN
    FOR one IN SELECT * FROM to_attach ORDER BY since LOOP
        EXECUTE format('ALTER TABLE payment_log ATTACH PARTITION %I ', one.called) || CASE
            WHEN one.since IS NULL THEN 'DEFAULT'
            ELSE format('FOR VALUES FROM (%L) TO (%L)', one.since, one.since + interval '1 month') END;
    END LOOP;
    REVOKE ALL ON payment_log, payment_log_first FROM PUBLIC;
    FOR one IN SELECT * FROM of_the_record LOOP
        IF one.kind = 'view' THEN
            EXECUTE format('CREATE OR REPLACE VIEW %s AS %s', one.name, one.said);
        ELSIF one.kind = 'grant' THEN
            EXECUTE format('REVOKE ALL ON payment_log_first FROM %s', one.name);
            EXECUTE format('GRANT %s ON payment_log TO %s', one.said, one.name);
            IF one.said LIKE 'INSERT%' THEN
                EXECUTE format('GRANT USAGE ON SEQUENCE payment_log_id_seq TO %s', one.name);
                EXECUTE format('GRANT EXECUTE ON FUNCTION make_log_months(integer) TO %s', one.name);
            END IF;
        END IF;
    END LOOP;
END $$;
"""

PATHS = pinned(
    "take_report",
    "refuse_log_change",
    "log_until",
    "log_months_until",
    "log_rows_astray",
    "make_log_partition",
    "make_log_months",
    "audited_content",
    "retire_log_partition",
)


def upgrade() -> None:
    bind = op.get_bind()
    first_until = _month_after_next().isoformat()
    run_script(bind, ALL_VIEWS_FOLLOW)
    with op.get_context().autocommit_block():
        run_briefly(bind, REPORTS + PATHS)
        run_briefly(bind, FROM_NOW_ON)
        run_script(bind, UNTIL_NOW)
    try:
        with op.get_context().autocommit_block():
            run_briefly(bind, BOUND.format(until=first_until))
            run_script(bind, READ_ONCE)
        run_briefly(bind, MONTHS + RETIRING + UNDOING + PATHS + SWITCH.replace("{until}", first_until))
    except BaseException:
        # Left behind, it would refuse every row from that month on.
        with op.get_context().autocommit_block():
            run_briefly(bind, UNBOUND)
        raise


def _month_after_next() -> datetime:
    """A bound that no row meets while the migration runs, however long it takes or is left half done."""
    today = datetime.now(UTC)
    year, month = divmod(today.year * 12 + today.month + 1, 12)
    return datetime(year, month + 1, 1, tzinfo=UTC)


def downgrade() -> None:
    op.execute(text("SELECT break_law('no_way_back', 'months may have left the record since')"))
