"""An intent is in its table as it was asked for, or nothing is sent; a cancelled wait for a replica is told.

Somebody else's trigger or rule can drop a row or change it, and PostgreSQL reports no error: a payment was sent without
its row, or its row named another account than the one that took the money, from which a refund would then be paid.
So the intent looks at what was written.

That a commit did not wait for its replica PostgreSQL says as a warning. A role or a server with
``client_min_messages = error`` keeps it from whoever asked, and the payment was sent without its replica.
"""

from alembic import op
from sqlalchemy import text

from payment_service.postgres.schema import pinned, rewritten, run_script

revision = "0030"
down_revision = "0029"
branch_labels = None
depends_on = None

AS_ASKED = rewritten(
    "payment_intend",
    {
        "_key IS NOT NULL, 'sending'\n    );": """_key IS NOT NULL, 'sending'
    ) RETURNING * INTO earlier;
    IF NOT FOUND OR (
        earlier.id, earlier.shop_id, earlier.provider, earlier.organization_bin, earlier.device_token_id,
        earlier.amount, earlier.order_id, earlier.caller, earlier.fingerprint, earlier.state
    ) IS DISTINCT FROM (
        _id, _shop_id, _provider, _organization_bin, _device_token_id, _amount, _order_id, _caller, _fingerprint,
        'sending'
    ) THEN
        PERFORM break_law('payment_is_as_asked', 'a trigger or a rule dropped or changed a payment');
    END IF;""",
    },
)
CLAIM = """
CREATE OR REPLACE FUNCTION claim_key(of_caller text, of_key text, of_fingerprint text, of_operation uuid) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    INSERT INTO idempotency_claim AS claim (caller, idempotency_key, fingerprint, operation_id)
    VALUES (of_caller, of_key, of_fingerprint, of_operation)
    ON CONFLICT (caller, idempotency_key) DO UPDATE SET operation_id = EXCLUDED.operation_id;
    IF NOT FOUND THEN
        PERFORM break_law('claim_is_as_asked', 'a trigger or a rule dropped the claim of an Idempotency-Key');
    END IF;
END $$;
"""
REPLICA = rewritten(
    "commit_waits_for_the_disk",
    {
        "    RETURN NULL;": """\
    -- A commit whose wait for a replica is cancelled is told by a warning.
    IF current_setting('client_min_messages') = 'error' THEN
        PERFORM set_config('client_min_messages', 'warning', true);
    END IF;
    RETURN NULL;"""
    },
)


def upgrade() -> None:
    for part in (AS_ASKED, CLAIM, pinned("claim_key"), REPLICA):
        run_script(op.get_bind(), part)


def downgrade() -> None:
    op.execute(text("SELECT break_law('no_way_back', 'money would go out without a row, or without its replica')"))
