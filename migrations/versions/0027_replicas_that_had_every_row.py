"""Who said that replicas have every row meant a promotion, and only while replication was synchronous.

``release --replicas-have-all`` let every later timeline send. A backup that is restored to a moment has another
timeline as well, and so has a replica that was promoted after its primary had gone on without it (its
``synchronous_standby_names`` was emptied, as one does when a replica is away). Both had forgotten payments, and sent
them again.

PostgreSQL knows until its next start whether it received by streaming what it replayed last: a replica did, a restored
backup did not. The worker writes down such a promotion at once. And a primary on which nothing waits for a replica
sends nothing on that word.

Nor is the index of a text believed where the operating system's order of letters is another one than it was made in.
And a refund that others report of "KASPI" is one of Kaspi's in a Turkish database, too, where I in small is no i.
"""

from alembic import op
from sqlalchemy import text

from payment_service.postgres.schema import pinned, rewritten, run_script

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None

REPLICA = """
-- Whether indexes of texts are in the order of letters that this server has. In another one a row that is there is not
-- found by its key. No version is known of C, and of a database from before PostgreSQL 15.
CREATE FUNCTION letters_are_in_order() RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT coalesce(datcollversion = pg_database_collation_actual_version(oid), true)
    FROM pg_database WHERE datname = current_database()
$$;

-- Whether this server followed a primary by streaming, to the end, until it was promoted. False after its next start.
CREATE FUNCTION followed_to_the_end() RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT coalesce(pg_last_wal_receive_lsn() >= pg_last_wal_replay_lsn(), false) AND letters_are_in_order()
        AND concat(current_setting('recovery_target'), current_setting('recovery_target_time'),
            current_setting('recovery_target_lsn'), current_setting('recovery_target_name'),
            current_setting('recovery_target_xid')) = ''
$$;

-- Whether a commit waits for a replica.
CREATE FUNCTION is_synchronous() RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT current_setting('synchronous_standby_names') <> ''
$$;
"""
HOLD = """
-- For a process that sees that this database has forgotten something.
CREATE FUNCTION hold_sending(why text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF sending_held_because() IS DISTINCT FROM 'held' THEN
        INSERT INTO sending_hold (actor, is_held, provider, reason)
            SELECT 'service', true, provider, why FROM sending_hold ORDER BY id DESC LIMIT 1;
        INSERT INTO payment_log (operation_type, actor, source, reason)
            VALUES ('sending-hold', 'service', 'service', why);
    END IF;
END $$;
"""
HELD = rewritten(
    "sending_held_because",
    {
        "ELSIF latest.timeline <> this_timeline() AND NOT latest.replicas_have_all THEN": (
            "ELSIF latest.timeline <> this_timeline()\n"
            "        AND NOT (latest.replicas_have_all AND followed_to_the_end()) THEN"
        ),
        "    END IF;\n    RETURN NULL;": """
    ELSIF latest.replicas_have_all AND latest.timeline = this_timeline() AND NOT is_synchronous() THEN
        RETURN 'not_synchronous';
    END IF;
    RETURN NULL;""",
    },
)
ELSEWHERE = rewritten(
    "refunds_elsewhere",
    {
        "lower(provider) = lower(of_provider)": 'lower(provider COLLATE "C") = lower(of_provider COLLATE "C")',
        "lower(operation_type) = 'refund'": "lower(operation_type COLLATE \"C\") = 'refund'",
    },
)
RETIRING = rewritten(
    "retire_log_partition", {"lower(operation_type) = 'refund'": "lower(operation_type COLLATE \"C\") = 'refund'"}
)
PATHS = pinned("letters_are_in_order", "followed_to_the_end", "is_synchronous", "hold_sending")


def upgrade() -> None:
    for part in (REPLICA, HOLD, PATHS, HELD, ELSEWHERE, RETIRING):
        run_script(op.get_bind(), part)


def downgrade() -> None:
    op.execute(text("SELECT break_law('no_way_back', 'a restored backup would send what it has forgotten')"))
