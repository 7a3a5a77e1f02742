"""An intent, and whatever has an entry in the record, is on the disk when its commit returns.

A payment is called before anything else knows of it, so that a commit which a crash can take back is a payment that is
made twice. ``synchronous_commit`` is a setting of a session, and sessions lose settings: to a pooler that shares them
between clients, to ``ALTER ROLE``, to a person with psql. So the tables themselves ask for it, for the transaction that
writes them and until its commit, whoever writes and over whatever way.

An intent looks what is in its way after it has waited for a lock. In another isolation than READ COMMITTED it would not
see its like, and be sent beside it: a session that begins so (a default that another client of a pooler has set) writes
no payment and no refund.

One function per statement. Every change has its entry in ``payment_log``, so that three tables are all.
"""

from alembic import op
from sqlalchemy import text

from payment_service.postgres.schema import pinned, run_script

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

LAW = """
CREATE FUNCTION commit_waits_for_the_disk() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- "on" asks a synchronous replica's disk too, "remote_apply" more; all others can lose what was committed.
    IF current_setting('synchronous_commit') NOT IN ('on', 'remote_apply') THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
    RETURN NULL;
END $$;
CREATE FUNCTION sees_what_was_committed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        PERFORM break_law('sees_what_was_committed', 'an intent needs READ COMMITTED to see its like');
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER payment_sees BEFORE INSERT ON payment FOR EACH STATEMENT EXECUTE FUNCTION sees_what_was_committed();
CREATE TRIGGER refund_sees BEFORE INSERT ON refund FOR EACH STATEMENT EXECUTE FUNCTION sees_what_was_committed();
CREATE TRIGGER payment_commit_waits BEFORE INSERT ON payment
    FOR EACH STATEMENT EXECUTE FUNCTION commit_waits_for_the_disk();
CREATE TRIGGER refund_commit_waits BEFORE INSERT ON refund
    FOR EACH STATEMENT EXECUTE FUNCTION commit_waits_for_the_disk();
CREATE TRIGGER payment_log_commit_waits BEFORE INSERT ON payment_log
    FOR EACH STATEMENT EXECUTE FUNCTION commit_waits_for_the_disk();
"""


def upgrade() -> None:
    for part in (LAW, pinned("commit_waits_for_the_disk", "sees_what_was_committed")):
        run_script(op.get_bind(), part)


def downgrade() -> None:
    op.execute(text("SELECT break_law('no_way_back', 'a crash could take back what was sent')"))
