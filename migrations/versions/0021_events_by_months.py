"""``event``, ``event_delivery``, ``delivery_try`` and ``notify_message`` in partitions, one of each for a month.

A month of events leaves the database together with what was delivered and told of them. All four are divided by the
event's id, which is a UUIDv7 and so begins with its time: the bounds are ids, too. The laws hold over all months then:

- an event's id is the key of ``event``, and the key of its messages begins with it;
- all deliveries of an event are in one partition, so that "once to an endpoint" and "replayed once" are kept there;
- foreign keys are between the partitions of one month, and leave with them. One of a whole partitioned table would
  be checked against all other months when a month leaves, while payments wait.

No row of three tables is touched: they become the first partitions. ``delivery_try`` gets the id of the event, filled
in by short transactions. Then as 0015 did it: what is long takes no lock that a payment meets, what needs one is a
transaction of some milliseconds, begun again when it does not get it at once.

The functions that make months were for ``payment_log`` alone; they are for both now. Those of 0015 stay for workers
of the version before.
"""

from alembic import op
from sqlalchemy import text

from payment_service.postgres.schema import pinned, rewritten, run_briefly, run_script

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

MONTHS = """
-- What is kept in the same months and leaves together; the first is what the others are of.
CREATE OR REPLACE FUNCTION kept_with(leader text) RETURNS text[] LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE leader
        WHEN 'payment_log' THEN '{payment_log}'::text[]
        WHEN 'event' THEN '{event,event_delivery,delivery_try,notify_message}'::text[] END
$$;
CREATE OR REPLACE FUNCTION month_key(of text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE of WHEN 'payment_log' THEN 'created_at' WHEN 'event' THEN 'id' ELSE 'event_id' END
$$;

-- The bound of a partition at a moment; of ids the smallest UUIDv7 of it.
CREATE OR REPLACE FUNCTION month_bound(of text, moment timestamptz) RETURNS text
LANGUAGE sql STABLE SET timezone = 'UTC' AS $$
    SELECT CASE of WHEN 'payment_log' THEN moment::text
        ELSE left(hex, 8) || '-' || right(hex, 4) || '-7000-8000-000000000000' END
    FROM lpad(to_hex((extract(epoch FROM moment) * 1000)::bigint), 12, '0') AS hex
$$;

-- The time that a UUIDv7 begins with.
CREATE OR REPLACE FUNCTION moment_of(id text) RETURNS timestamptz LANGUAGE sql IMMUTABLE AS $$
    SELECT to_timestamp(('x0000' || left(id, 8) || substr(id, 10, 4))::bit(64)::bigint / 1000.0)
$$;

-- Until when a partition's rows were written; NULL of the one for what has none.
CREATE OR REPLACE FUNCTION month_until(partition oid) RETURNS timestamptz LANGUAGE sql STABLE SET timezone = 'UTC' AS $$
    SELECT CASE WHEN said LIKE '________-____-7000-8000-000000000000'
        THEN moment_of(said)
        ELSE said::timestamptz END
    FROM (SELECT substring(pg_get_expr(relpartbound, oid) FROM $said$TO \\('([^']+)'\\)$said$) AS said
          FROM pg_class WHERE oid = partition) AS bound
$$;

-- Until when months lie ready; one that was made by hand for a wrong clock's rows does not count.
CREATE OR REPLACE FUNCTION months_until(leader text) RETURNS timestamptz LANGUAGE sql STABLE SET timezone = 'UTC' AS $$
    SELECT coalesce(max(until) FILTER (WHERE until <= date_trunc('month', now()) + interval '13 months'), max(until))
    FROM (SELECT month_until(inhrelid) AS until FROM pg_inherits WHERE inhparent = leader::regclass) AS partition
$$;

-- Whether rows are in the partition for what has none; the others' rows are there only with the leader's.
CREATE OR REPLACE FUNCTION rows_astray(leader text) RETURNS boolean LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
DECLARE
    found boolean;
BEGIN
    EXECUTE format('SELECT EXISTS (SELECT FROM %I)', (kept_with(leader))[1] || '_default') INTO found;
    RETURN found;
END $$;

-- Keys and references that each partition has for itself.
CREATE OR REPLACE FUNCTION laws_of_partition(of text, suffix text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT format(CASE of
        WHEN 'event_delivery' THEN 'PRIMARY KEY (id), UNIQUE (replay_of),'
            ' FOREIGN KEY (event_id) REFERENCES %I (id), FOREIGN KEY (replay_of) REFERENCES %I (id),'
            ' FOREIGN KEY (endpoint_id) REFERENCES webhook_endpoint (id)'
        WHEN 'delivery_try' THEN 'PRIMARY KEY (delivery_id, number),'
            ' FOREIGN KEY (delivery_id) REFERENCES %2$I (id)'
        WHEN 'notify_message' THEN 'PRIMARY KEY (event_id, chat_id),'
            ' FOREIGN KEY (event_id) REFERENCES %I (id), FOREIGN KEY (chat_id) REFERENCES notify_chat (id)'
        ELSE 'PRIMARY KEY (id)' END, 'event_' || suffix, 'event_delivery_' || suffix)
$$;

-- A table that can become a partition. Its indexes are made before it is attached; the triggers of rows come from the
-- partitioned table then, and TRUNCATE it refuses itself.
CREATE OR REPLACE FUNCTION make_partition(of text, suffix text, shape regclass) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    called text := of || '_' || suffix;
    index record;
BEGIN
    EXECUTE format('CREATE TABLE %I (LIKE %s INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE, %s)',
                   called, shape, laws_of_partition(of, suffix));
    FOR index IN SELECT relname, pg_get_indexdef(indexrelid) AS said
                 FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid WHERE indrelid = shape AND NOT indisprimary
    LOOP
        EXECUTE regexp_replace(index.said, 'INDEX \\S+ ON (ONLY )?\\S+', format(
            'INDEX %I ON %I', called || '_' || regexp_replace(index.relname, '^' || shape || '_', ''), called));
    END LOOP;
    EXECUTE format('CREATE TRIGGER %I BEFORE TRUNCATE ON %I FOR EACH STATEMENT EXECUTE FUNCTION refuse_change(%L)',
                   of || '_no_truncate', called, of);
END $$;

-- What took the rows of a time for which no partition was made becomes its partition: no row is moved.
CREATE OR REPLACE FUNCTION give_default_its_time(leader text, since timestamptz, until timestamptz) RETURNS void
LANGUAGE plpgsql SET timezone = 'UTC' AS $$
DECLARE
    family text[] := kept_with(leader);
    of text;
    called text;
    index name;
BEGIN
    FOREACH of IN ARRAY family[2:] || leader LOOP
        EXECUTE format('LOCK TABLE %I IN ACCESS EXCLUSIVE MODE', of);
    END LOOP;
    FOREACH of IN ARRAY family LOOP
        called := of || to_char(since, '_YYYY_MM');
        EXECUTE format('ALTER TABLE %I DETACH PARTITION %I', of, of || '_default');
        EXECUTE format('ALTER TABLE %I RENAME TO %I', of || '_default', called);
        FOR index IN SELECT relname FROM pg_class JOIN pg_index ON indexrelid = oid WHERE indrelid = called::regclass
        LOOP
            EXECUTE format('ALTER INDEX %I RENAME TO %I', index, replace(index, of || '_default', called));
        END LOOP;
        EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                       of, called, month_bound(of, since), month_bound(of, until));
        PERFORM make_partition(of, 'default', of::regclass);
        EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I DEFAULT', of, of || '_default');
    END LOOP;
END $$;

-- Make the months that are missing up to ``ahead`` after this one; returns how many were made. Whoever may add rows may
-- call it: what it makes is fixed. Not PARTITION OF, for which everybody would wait: attaching takes no lock that a
-- payment meets.
CREATE OR REPLACE FUNCTION make_months(leader text, ahead integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET timezone = 'UTC' SET lock_timeout = '300ms' AS $$
DECLARE
    family text[] := kept_with(leader);
    made_until timestamptz := months_until(family[1]);
    wanted timestamptz := date_trunc('month', now()) + make_interval(months => 1 + least(greatest(ahead, 1), 12));
    next_until timestamptz;
    of text;
    made integer := 0;
    is_so boolean;
BEGIN
    IF made_until >= wanted OR NOT pg_try_advisory_xact_lock(hashtext('make_months')) THEN
        RETURN 0;
    END IF;
    made_until := months_until(leader);
    EXECUTE format('SELECT EXISTS (SELECT FROM %1$I WHERE %2$I >= %3$L AND %2$I < %4$L)', leader || '_default',
                   month_key(leader), month_bound(leader, made_until), month_bound(leader, wanted)) INTO is_so;
    IF is_so THEN
        -- Months began that nobody had made.
        next_until := date_trunc('month', now()) + interval '1 month';
        EXECUTE format('SELECT EXISTS (SELECT FROM %1$I WHERE %2$I < %3$L OR %2$I >= %4$L)', leader || '_default',
                       month_key(leader), month_bound(leader, made_until), month_bound(leader, next_until)) INTO is_so;
        IF is_so THEN
            PERFORM break_law(leader || '_default_of_one_time',
                leader || '_default holds rows of other times too: docs/audit.md');
        ELSIF (SELECT sum(pg_table_size((name || '_default')::regclass)) FROM unnest(family) AS name) > 500000000 THEN
            PERFORM break_law(leader || '_default_is_small',
                'to read ' || leader || '_default takes longer than a payment may wait: docs/audit.md');
        END IF;
        PERFORM give_default_its_time(leader, made_until, next_until);
        made_until := next_until;
        made := 1;
    END IF;
    -- In the order in which queries lock them, and before the tables that foreign keys are to: none waits for one that
    -- waits for it. With one table, all that is long comes first.
    FOREACH of IN ARRAY family[2:] || CASE WHEN cardinality(family) > 1 THEN family[1:1] ELSE '{}' END LOOP
        EXECUTE format('LOCK TABLE %I IN ACCESS EXCLUSIVE MODE', of || '_default');
    END LOOP;
    FOREACH of IN ARRAY family LOOP
        FOR next_until IN SELECT generate_series(made_until, wanted - interval '1 month', '1 month') LOOP
            PERFORM make_partition(of, to_char(next_until, 'YYYY_MM'), of::regclass);
        END LOOP;
    END LOOP;
    WHILE made_until < wanted LOOP
        next_until := made_until + interval '1 month';
        FOREACH of IN ARRAY family LOOP
            EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', of,
                of || to_char(made_until, '_YYYY_MM'), month_bound(of, made_until), month_bound(of, next_until));
        END LOOP;
        made_until := next_until;
        made := made + 1;
    END LOOP;
    RETURN made;
END $$;

-- For workers of the version before.
CREATE OR REPLACE FUNCTION make_log_months(ahead integer DEFAULT 3) RETURNS integer LANGUAGE sql SECURITY DEFINER AS $$
    SELECT make_months('payment_log', ahead)
$$;
CREATE OR REPLACE FUNCTION log_until(partition oid) RETURNS timestamptz LANGUAGE sql STABLE AS $$
    SELECT month_until(partition)
$$;
CREATE OR REPLACE FUNCTION log_months_until() RETURNS timestamptz LANGUAGE sql STABLE AS $$
    SELECT months_until('payment_log')
$$;
CREATE OR REPLACE FUNCTION log_rows_astray() RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT rows_astray('payment_log')
$$;
DROP FUNCTION IF EXISTS make_log_partition(text);

REVOKE ALL ON FUNCTION make_partition(text, text, regclass), make_months(text, integer),
    give_default_its_time(text, timestamptz, timestamptz) FROM PUBLIC;
DO $$
DECLARE
    worker regrole;
BEGIN
    FOR worker IN SELECT grantee FROM pg_proc, aclexplode(proacl)
                  WHERE pg_proc.oid = 'make_log_months(integer)'::regprocedure AND grantee NOT IN (0, proowner) LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION make_months(text, integer) TO %s', worker);
    END LOOP;
END $$;
"""

# A law is told by the name of the table, whichever partition the row is in.
TOLD_BY_NAME = rewritten(
    "refuse_change",
    {
        "TG_TABLE_NAME || '_insert_only', 'rows of ' || TG_TABLE_NAME || ' are": (
            "coalesce(TG_ARGV[0], TG_TABLE_NAME) || '_insert_only',"
            " 'rows of ' || coalesce(TG_ARGV[0], TG_TABLE_NAME) || ' are"
        )
    },
)

ALL_VIEWS_FOLLOW = """
DO $$
DECLARE
    view text := (
        SELECT string_agg(DISTINCT ev_class::regclass::text, ', ')
        FROM pg_rewrite JOIN pg_depend ON classid = 'pg_rewrite'::regclass AND objid = pg_rewrite.oid
        JOIN pg_class ON pg_class.oid = ev_class AND relkind = 'm'
        WHERE refclassid = 'pg_class'::regclass AND refobjid = ANY (kept_with('event')::regclass[]));
BEGIN
    IF view IS NOT NULL THEN
        -- A plain view is made anew; this one would go on reading the first partitions, and nobody would see it.
        PERFORM break_law('event_read_by', view || ' is a materialized view of events: drop it, migrate, '
            || 'and make it again');
    END IF;
END $$;
"""

# A worker of the version before does not name the event: its tries go to the first partition, and get it there.
TRIES = """
ALTER TABLE delivery_try ADD COLUMN IF NOT EXISTS event_id uuid DEFAULT '00000000-0000-0000-0000-000000000000';
CREATE OR REPLACE FUNCTION name_event_of_try() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.event_id := (SELECT event_id FROM event_delivery WHERE id = NEW.delivery_id);
    RETURN NEW;
END $$;
CREATE OR REPLACE TRIGGER delivery_try_event BEFORE INSERT ON delivery_try FOR EACH ROW
    WHEN (NEW.event_id = '00000000-0000-0000-0000-000000000000') EXECUTE FUNCTION name_event_of_try();
-- Until then a row may get its event, and nothing else.
CREATE OR REPLACE TRIGGER delivery_try_insert_only BEFORE UPDATE ON delivery_try FOR EACH ROW
    WHEN (OLD.event_id <> '00000000-0000-0000-0000-000000000000'
          OR (OLD.delivery_id, OLD.number, OLD.succeeded, OLD.status, OLD.error, OLD.answer, OLD.duration_ms,
              OLD.created_at)
          IS DISTINCT FROM
          (NEW.delivery_id, NEW.number, NEW.succeeded, NEW.status, NEW.error, NEW.answer, NEW.duration_ms,
           NEW.created_at))
    EXECUTE FUNCTION refuse_change();
CREATE OR REPLACE TRIGGER delivery_try_kept BEFORE DELETE ON delivery_try
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
"""
NAME_EVENTS = """
DO $$
DECLARE
    delivery uuid := '00000000-0000-0000-0000-000000000000';
    try integer := 0;
BEGIN
    LOOP
        WITH page AS MATERIALIZED (
            SELECT delivery_id, number FROM delivery_try WHERE (delivery_id, number) > (delivery, try)
            ORDER BY delivery_id, number LIMIT 10000
        ), named AS (
            UPDATE delivery_try SET event_id = event_delivery.event_id
            FROM page JOIN event_delivery ON event_delivery.id = page.delivery_id
            WHERE delivery_try.delivery_id = page.delivery_id AND delivery_try.number = page.number
              AND delivery_try.event_id = '00000000-0000-0000-0000-000000000000'
        )
        SELECT delivery_id, number INTO delivery, try FROM page ORDER BY delivery_id DESC, number DESC LIMIT 1;
        EXIT WHEN NOT FOUND;
        COMMIT;
    END LOOP;
END $$
"""

# Until the month after the next, so that no row meets the bound while this runs or is left half done; and further when
# the clock of some process was wrong. With it PostgreSQL believes that every row is of the first partition, and reads
# none while everybody waits.
BOUND = """
SET LOCAL timezone = 'UTC';
DO $$
DECLARE
    of text;
    highest timestamptz := (SELECT moment_of(id::text) FROM event ORDER BY id DESC LIMIT 1);
    until text := month_bound('event', date_trunc('month', greatest(now() + interval '1 month', highest))
                              + interval '1 month');
BEGIN
    FOREACH of IN ARRAY kept_with('event') LOOP
        EXECUTE format('ALTER TABLE %1$I DROP CONSTRAINT IF EXISTS %2$I, ADD CONSTRAINT %2$I'
                       ' CHECK (%3$I IS NOT NULL AND %3$I < %4$L) NOT VALID', of, of || '_first_bound',
                       month_key(of), until);
    END LOOP;
END $$;
"""
READ_ONCE = [
    f"ALTER TABLE {table} VALIDATE CONSTRAINT {table}_first_bound"
    for table in ("event", "event_delivery", "delivery_try", "notify_message")
]
UNBOUND = """
DO $$
DECLARE
    of text;
BEGIN
    FOREACH of IN ARRAY kept_with('event') LOOP
        EXECUTE format('ALTER TABLE %I DROP CONSTRAINT IF EXISTS %I', of, of || '_first_bound');
    END LOOP;
END $$;
"""

# The partitioned tables under other names, with all partitions but the first; nobody reads them yet.
PREPARED = """
SET LOCAL timezone = 'UTC';
DROP TABLE IF EXISTS new_notify_message, new_delivery_try, new_event_delivery, new_event CASCADE;
DO $$
DECLARE
    of text;
    shape text;
    index record;
    month timestamptz;
BEGIN
    FOREACH of IN ARRAY kept_with('event') LOOP
        shape := 'new_' || of;
        EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE)'
                       ' PARTITION BY RANGE (%I)', shape, of, month_key(of));
        EXECUTE format('ALTER TABLE %I DROP CONSTRAINT %I', shape, of || '_first_bound');
        EXECUTE format('ALTER TABLE %I ALTER %I SET NOT NULL', shape, month_key(of));
        -- A key that holds the month is one of all partitions; any other is one of each.
        FOR index IN
            SELECT relname, indisprimary, pg_get_indexdef(indexrelid) AS said
            FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid WHERE indrelid = of::regclass
            AND (NOT indisunique OR (SELECT attnum FROM pg_attribute WHERE attrelid = indrelid
                                     AND attname = month_key(of)) = ANY (indkey))
        LOOP
            IF index.indisprimary THEN
                EXECUTE format('ALTER TABLE %I ADD CONSTRAINT %I PRIMARY KEY %s', shape, 'new_' || index.relname,
                               substring(index.said FROM '\\(.*\\)$'));
            ELSE
                EXECUTE regexp_replace(index.said, 'INDEX \\S+ ON (ONLY )?\\S+',
                                       format('INDEX %I ON %I', 'new_' || index.relname, shape));
            END IF;
        END LOOP;
        EXECUTE format('CREATE TRIGGER %I BEFORE TRUNCATE ON %I FOR EACH STATEMENT EXECUTE FUNCTION refuse_change(%L)',
                       of || '_no_truncate', shape, of);
    END LOOP;
    CREATE TRIGGER event_fixed BEFORE UPDATE OR DELETE ON new_event
        FOR EACH ROW EXECUTE FUNCTION event_changes();
    CREATE TRIGGER event_delivery_laws BEFORE INSERT OR UPDATE OR DELETE ON new_event_delivery
        FOR EACH ROW EXECUTE FUNCTION event_delivery_changes();
    CREATE TRIGGER delivery_try_insert_only BEFORE UPDATE OR DELETE ON new_delivery_try
        FOR EACH ROW EXECUTE FUNCTION refuse_change('delivery_try');
    CREATE TRIGGER notify_message_fixed BEFORE UPDATE OR DELETE ON new_notify_message
        FOR EACH ROW EXECUTE FUNCTION notify_message_changes();

    FOREACH of IN ARRAY kept_with('event') LOOP
        shape := 'new_' || of;
        FOR month IN SELECT generate_series(of_first.until, date_trunc('month', now()) + interval '3 months', '1 month')
            FROM (SELECT moment_of(said)
                  FROM pg_constraint, substring(pg_get_constraintdef(oid) FROM $said$< '([^']+)'$said$) AS said
                  WHERE conname = of || '_first_bound') AS of_first (until)
        LOOP
            PERFORM make_partition(of, to_char(month, 'YYYY_MM'), shape::regclass);
            EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', shape,
                of || to_char(month, '_YYYY_MM'), month_bound(of, month), month_bound(of, month + interval '1 month'));
        END LOOP;
        PERFORM make_partition(of, 'default', shape::regclass);
        EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I DEFAULT', shape, of || '_default');
    END LOOP;
END $$;
"""

# One transaction, under a lock for which payments wait: nothing here depends on how many rows there are. First
# whoever locks several of the tables in other orders is held off: the relay, and those who claim deliveries.
SWITCH = """
SELECT pg_advisory_xact_lock(hashtext('claim_deliveries'));
SELECT pg_advisory_xact_lock(hashtext('passing_on'));
LOCK TABLE event_delivery, delivery_try, notify_message, event IN ACCESS EXCLUSIVE MODE;

CREATE TEMP TABLE of_events ON COMMIT DROP AS
    SELECT DISTINCT 'view' AS kind, view.oid::regclass::text AS name, '' AS of, pg_get_viewdef(view.oid) AS said
    FROM pg_class view
    WHERE relkind = 'v' AND oid IN (
        SELECT ev_class FROM pg_rewrite JOIN pg_depend ON classid = 'pg_rewrite'::regclass AND objid = pg_rewrite.oid
        WHERE refclassid = 'pg_class'::regclass AND refobjid = ANY (kept_with('event')::regclass[]))
    UNION ALL
    SELECT 'grant', grantee::regrole::text, relname, privilege_type
    FROM pg_class, aclexplode(relacl)
    WHERE pg_class.oid = ANY (kept_with('event')::regclass[]) AND grantee NOT IN (0, relowner)
    UNION ALL
    SELECT 'grant', grantee::regrole::text, relname, format('%s (%I)', privilege_type, attname)
    FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid, aclexplode(attacl)
    WHERE pg_class.oid = ANY (kept_with('event')::regclass[]) AND grantee NOT IN (0, relowner);

DROP TRIGGER event_fixed ON event;
DROP TRIGGER event_delivery_laws ON event_delivery;
DROP TRIGGER delivery_try_insert_only ON delivery_try;
DROP TRIGGER delivery_try_kept ON delivery_try;
DROP TRIGGER notify_message_fixed ON notify_message;
ALTER TABLE delivery_try ALTER event_id SET NOT NULL;
DO $$
DECLARE
    of text;
    name name;
    until text;
    one record;
BEGIN
    FOREACH of IN ARRAY kept_with('event') LOOP
        SELECT substring(pg_get_constraintdef(oid) FROM $said$< '([^']+)'$said$) INTO STRICT until FROM pg_constraint
        WHERE conrelid = of::regclass AND conname = of || '_first_bound';
        -- The names go to the partitioned table.
        EXECUTE format('ALTER TABLE %I RENAME TO %I', of, of || '_first');
        FOR name IN SELECT relname FROM pg_class JOIN pg_index ON indexrelid = oid
                    WHERE indrelid = (of || '_first')::regclass LOOP
            EXECUTE format('ALTER INDEX %I RENAME TO %I', name,
                           of || '_first_' || regexp_replace(name, '^' || of || '_', ''));
        END LOOP;
        EXECUTE format('ALTER TABLE %I RENAME TO %I', 'new_' || of, of);
        FOR name IN SELECT relname FROM pg_class JOIN pg_index ON indexrelid = oid
                    WHERE indrelid = of::regclass LOOP
            EXECUTE format('ALTER INDEX %I RENAME TO %I', name, substr(name, length('new_') + 1));
        END LOOP;
        EXECUTE format('DROP TRIGGER %I ON %I', of || '_no_truncate', of || '_first');
        EXECUTE format('CREATE TRIGGER %I BEFORE TRUNCATE ON %I FOR EACH STATEMENT EXECUTE FUNCTION refuse_change(%L)',
                       of || '_no_truncate', of || '_first', of);
        EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (MINVALUE) TO (%L)', of, of || '_first',
                       until);
        EXECUTE format('ALTER TABLE %I DROP CONSTRAINT %I', of || '_first', of || '_first_bound');
    END LOOP;
    FOR one IN SELECT * FROM of_events LOOP
        IF one.kind = 'view' THEN
            EXECUTE format('CREATE OR REPLACE VIEW %s AS %s', one.name, one.said);
        ELSE
            EXECUTE format('REVOKE ALL ON %I FROM %s', one.of || '_first', one.name);
            EXECUTE format('GRANT %s ON %I TO %s', one.said, one.of, one.name);
        END IF;
    END LOOP;
END $$;
"""

# Of each statement, only those partitions are looked into that hold something that waits, or the event itself.
CLAIMS = rewritten(
    "claim_deliveries",
    {
        "    present timestamptz;\n": "    present timestamptz;\n    oldest uuid;\n",
        "    RETURN QUERY\n": """
    SELECT d.event_id INTO oldest FROM event_delivery AS d WHERE d.state = 'waiting' ORDER BY d.event_id LIMIT 1;
    IF oldest IS NULL THEN
        RETURN;
    END IF;
    RETURN QUERY
""",
        "WHERE d.trying_until > present GROUP": "WHERE d.trying_until > present AND d.event_id >= oldest GROUP",
        "SELECT found.id, found.next_try_at": "SELECT found.id, found.event_id, found.next_try_at",
        "SELECT tested.id, tested.next_try_at": "SELECT tested.id, tested.event_id, tested.next_try_at",
        "SELECT d.id, d.next_try_at FROM": "SELECT d.id, d.event_id, d.next_try_at FROM",
        "WHERE d.endpoint_id = e.id AND d.state = 'waiting' AND d.": (
            "WHERE d.endpoint_id = e.id AND d.state = 'waiting' AND d.event_id >= oldest AND d."
        ),
        "AND earlier.state = 'waiting'": "AND earlier.state = 'waiting' AND earlier.event_id >= oldest",
        "WHERE d.id IN (\n            SELECT due.id FROM due": (
            "WHERE d.event_id >= oldest AND (d.event_id, d.id) IN (\n            SELECT due.event_id, due.id FROM due"
        ),
        "JOIN event ON event.id = t.event_id JOIN": "JOIN event ON event.id = t.event_id AND event.id >= oldest JOIN",
    },
)
LAST_TRY = rewritten(
    "event_delivery_changes",
    {"WHERE delivery_id = NEW.id AND number": "WHERE event_id = NEW.event_id AND delivery_id = NEW.id AND number"},
)

RETIRING = """
-- Take the oldest month of events out, with what was delivered and told of them. The tables stay as they are, and
-- nothing is added to them any more.
CREATE FUNCTION retire_event_partition(called text, by_whom text) RETURNS void
LANGUAGE plpgsql SET timezone = 'UTC' AS $$
DECLARE
    suffix text := substr(called, length('event_') + 1);
    oldest record;
    of text;
    is_open boolean;
BEGIN
    SELECT relname, month_until(oid) AS until INTO oldest FROM pg_class JOIN pg_inherits ON inhrelid = oid
    WHERE inhparent = 'event'::regclass ORDER BY until LIMIT 1;
    IF oldest.relname IS DISTINCT FROM called THEN
        PERFORM break_law('event_retired_oldest_first', 'the oldest partition of event leaves first');
    END IF;
    IF oldest.until > date_trunc('month', now()) - interval '1 month' THEN
        PERFORM break_law('event_retired_is_over', 'a month stays for a month after its end');
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('claim_deliveries')), pg_advisory_xact_lock(hashtext('passing_on'));
    LOCK TABLE event_delivery, delivery_try, notify_message, event IN ACCESS EXCLUSIVE MODE;
    EXECUTE format($q$
        SELECT EXISTS (SELECT FROM %I WHERE passed_on_at IS NULL) OR EXISTS (SELECT FROM %I WHERE state = 'waiting')
            OR EXISTS (SELECT FROM %I WHERE state IN ('waiting', 'failed')) $q$,
        called, 'event_delivery_' || suffix, 'notify_message_' || suffix) INTO is_open;
    IF is_open THEN
        PERFORM break_law('event_retired_is_ended', 'something of that time still waits to be delivered');
    END IF;
    FOREACH of IN ARRAY kept_with('event') LOOP
        EXECUTE format('ALTER TABLE %I DETACH PARTITION %I', of, of || '_' || suffix);
        EXECUTE format('CREATE TRIGGER %I BEFORE INSERT OR UPDATE OR DELETE ON %I FOR EACH ROW'
                       ' EXECUTE FUNCTION refuse_change(%L)', of || '_retired', of || '_' || suffix, of);
    END LOOP;
    INSERT INTO payment_log (operation_type, actor, source, reason)
    VALUES ('event-retire', by_whom, 'service', called || ' has left, with what was delivered and told of it');
END $$;
REVOKE ALL ON FUNCTION retire_event_partition(text, text) FROM PUBLIC;
"""

PATHS = pinned(
    "kept_with",
    "month_key",
    "month_bound",
    "moment_of",
    "month_until",
    "months_until",
    "rows_astray",
    "laws_of_partition",
    "make_partition",
    "give_default_its_time",
    "make_months",
    "make_log_months",
    "log_until",
    "log_months_until",
    "log_rows_astray",
    "name_event_of_try",
    "retire_event_partition",
)


def upgrade() -> None:
    bind = op.get_bind()
    with op.get_context().autocommit_block():
        run_script(bind, MONTHS + PATHS)
        run_script(bind, ALL_VIEWS_FOLLOW)
        run_briefly(bind, TRIES + PATHS)
        run_script(bind, NAME_EVENTS)
    try:
        with op.get_context().autocommit_block():
            run_briefly(bind, BOUND)
            for reading in READ_ONCE:
                run_script(bind, reading)
            run_briefly(bind, PREPARED)
        run_briefly(bind, SWITCH + TOLD_BY_NAME + CLAIMS + LAST_TRY + RETIRING + PATHS)
    except BaseException:
        # Left behind, it would refuse every row from that month on.
        with op.get_context().autocommit_block():
            run_briefly(bind, UNBOUND)
        raise


def downgrade() -> None:
    op.execute(text("SELECT break_law('no_way_back', 'months of events may have left since')"))
