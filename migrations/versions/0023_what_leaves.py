"""What leaves the service goes to those whom it concerns today, and what others paid back is counted whole.

The address of a webhook is handed out only for events of shops that its endpoint is told of. An endpoint may be given
to another seller while events of the first one still wait for it.

A refund that others report without its sum may have been of everything: nothing is left until a later report of a
refund of that payment says how much it was, or that it was refused. Each such report answers for one. A line that a
retired month left behind (it has a reason) answers for none: it is older than its place. And clients write Refund and
Kaspi as they like.

And a refund that a person called failed, of which the provider says afterwards that it was made, was made.
"""

from alembic import op
from sqlalchemy import text

from payment_service.postgres.schema import pinned, rewritten, run_script

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

DELIVERIES = rewritten(
    "claim_deliveries",
    {
        "        e.url, e.secret_ciphertext": (
            "        CASE WHEN t.type = 'test' OR e.shops IS NULL OR t.shop_id = ANY (e.shops) THEN e.url END,\n"
            "        e.secret_ciphertext"
        )
    },
)

ELSEWHERE = """
CREATE FUNCTION refunds_elsewhere(of_shop integer, of_provider text, of_payment text)
RETURNS TABLE (log_id bigint, tiyn bigint) LANGUAGE sql STABLE AS $$
    SELECT id, amount FROM (
        SELECT id, amount, was_made,
            sum(CASE WHEN was_made AND amount IS NULL THEN 1 WHEN reason IS NULL THEN -1 ELSE 0 END)
                OVER (ORDER BY id DESC) AS unanswered
        FROM (
            SELECT id, amount, reason,
                coalesce(error_message, '') = '' OR starts_with(error_message, 'Outcome unknown') AS was_made
            FROM payment_log
            WHERE external_id = of_payment AND lower(provider) = lower(of_provider)
                AND lower(operation_type) = 'refund'
                -- A client speaks of its own shop alone. The old service knew the payment, and not always the shop.
                AND (source = 'legacy' OR source = 'client' AND shop_id = of_shop)
        ) AS said
    ) AS counted
    WHERE was_made AND (amount IS NOT NULL OR unanswered > 0)
$$;
CREATE OR REPLACE FUNCTION refunded_elsewhere(of_shop integer, of_provider text, of_payment text) RETURNS bigint
LANGUAGE sql STABLE AS $$
    -- Without a sum: the largest that a payment has.
    SELECT coalesce(sum(coalesce(tiyn, 9999999999)), 0)::bigint
    FROM refunds_elsewhere(of_shop, of_provider, of_payment)
$$;
"""
RETIRING = rewritten(
    "retire_log_partition",
    {
        "    is_open boolean;": "    is_open boolean;\n    paid_back bigint[];",
        "    EXECUTE format('ALTER TABLE payment_log DETACH PARTITION %I', called);": """
    EXECUTE format($q$
        SELECT array_agg(log_id) FROM (
            SELECT DISTINCT shop_id, provider, external_id FROM %1$I
            WHERE lower(operation_type) = 'refund' AND source IN ('client', 'legacy') AND external_id IS NOT NULL
        ) AS refunded, refunds_elsewhere(shop_id, provider, external_id) $q$, called) INTO paid_back;

    EXECUTE format('ALTER TABLE payment_log DETACH PARTITION %I', called);""",
        """FROM %1$I WHERE operation_type = 'refund' AND source IN ('client', 'legacy') AND external_id IS NOT NULL
        ORDER BY id $q$, called);""": "FROM %1$I WHERE id = ANY ($1) ORDER BY id $q$, called) USING paid_back;",
    },
)
REFUNDS = rewritten(
    "refund_changes",
    {
        "        ELSIF (OLD.state, NEW.state) NOT IN (": (
            """        ELSIF OLD.state = 'failed' AND OLD.failure = 'settled' AND NEW.state = 'succeeded' THEN
            IF (SELECT state FROM payment WHERE id = OLD.payment_id) <> 'paid' THEN
                PERFORM break_law('refund_of_paid_payment', 'only a paid payment can be refunded');
            END IF;
        ELSIF (OLD.state, NEW.state) NOT IN ("""
        )
    },
)
PATHS = pinned("refunds_elsewhere", "refunded_elsewhere")


def upgrade() -> None:
    for part in (DELIVERIES, ELSEWHERE, RETIRING, REFUNDS, PATHS):
        run_script(op.get_bind(), part)


def downgrade() -> None:
    op.execute(text("SELECT break_law('no_way_back', 'what others paid back would be paid back again')"))
