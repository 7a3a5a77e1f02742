"""Never twice, whatever level of isolation the database gives, and from whatever dump it was loaded.

An intent waits for a lock and then looks what is in its way, and each statement has to see what was committed while
it waited: that is READ COMMITTED. With ``default_transaction_isolation`` set to anything else for a role, a database or
a server, it would look with the snapshot from before the lock, find nothing, and be sent beside its like. The service
asks for READ COMMITTED in its own connections; who comes without is refused here.

A dump that is loaded into the server that it came from, and a copy that is made in the same server, have its system
identifier and its timeline. What tells them is what PostgreSQL numbers anew: a copy is another database, and what a
dump makes is another table. No restart, upgrade in place, VACUUM or promotion changes those numbers.

And a refund leaves what others say that they paid back of the payment: the provider would pay it back again.
"""

from alembic import op
from sqlalchemy import text

from payment_service.postgres.schema import pinned, rewritten, run_script

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

AFRESH = """
CREATE OR REPLACE FUNCTION one_at_a_time(name text) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        PERFORM break_law('looks_after_the_lock', 'what is in the way can be seen in READ COMMITTED alone');
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended(name, 0));
END $$;
"""

DATABASE = """
-- Which database this is within its server, and whether its tables are those that were made first.
CREATE FUNCTION this_database() RETURNS text LANGUAGE sql STABLE AS $$
    SELECT (SELECT oid FROM pg_database WHERE datname = current_database()) || '/' || to_regclass('sending_hold')::oid
$$;

-- What was released before is of the database as it is now.
ALTER TABLE sending_hold ADD COLUMN database varchar(21) NOT NULL DEFAULT this_database();
"""
HELD = rewritten(
    "sending_held_because",
    {
        "RETURN 'other_timeline';\n": """RETURN 'other_timeline';
    ELSIF latest.database IS DISTINCT FROM this_database() THEN
        RETURN 'other_database';
"""
    },
)

REFUNDS = """
-- Tiyn that others say they paid back of a payment, or may have: a client that calls the provider itself, and the
-- service before this one. Not what the provider refused: what became of it stands in the message.
CREATE FUNCTION refunded_elsewhere(of_shop integer, of_provider text, of_payment text) RETURNS bigint
LANGUAGE sql STABLE AS $$
    SELECT coalesce(sum(amount), 0)::bigint FROM payment_log
    WHERE external_id = of_payment AND provider = of_provider AND shop_id = of_shop AND operation_type = 'refund'
        AND source IN ('client', 'legacy')
        AND (coalesce(error_message, '') = '' OR starts_with(error_message, 'Outcome unknown'))
$$;
"""
LEFT = rewritten(
    "refund_intend",
    {
        "- paid.reserved_amount;": """- paid.reserved_amount
        - refunded_elsewhere(paid.shop_id, paid.provider, paid.external_id);
    remainder := greatest(remainder, 0);"""
    },
)
PATHS = pinned("one_at_a_time", "this_database", "refunded_elsewhere")


def upgrade() -> None:
    for part in (AFRESH, DATABASE, HELD, REFUNDS, LEFT, PATHS):
        run_script(op.get_bind(), part)


def downgrade() -> None:
    op.execute(text("SELECT break_law('no_way_back', 'which database was released would be forgotten')"))
