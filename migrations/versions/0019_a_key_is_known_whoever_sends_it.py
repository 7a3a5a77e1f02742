"""An Idempotency-Key with the same request is the same request, whichever caller sends it.

A client whose API key was replaced by one with another name, or a second system that goes on with the first one's
work, repeats a request under its Idempotency-Key: it was sent again, since keys were known by caller. A key of another
caller with *other* words is still another key.

And without a key: what may have left blocks its like, whichever caller asks again.
"""

from alembic import op
from sqlalchemy import text

from payment_service.postgres.schema import pinned, rewritten, run_script

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

CLAIMS = """
CREATE INDEX idempotency_claim_key ON idempotency_claim (idempotency_key);

-- What a key stands for. First of all a claim of the caller's own with other words; else the operation that came to
-- something, whoever asked for it; else one that provably was not sent.
CREATE FUNCTION claim_of(of_caller text, of_key text, of_fingerprint text) RETURNS SETOF idempotency_claim
LANGUAGE sql STABLE AS $$
    SELECT * FROM idempotency_claim AS claim
    WHERE idempotency_key = of_key AND (caller = of_caller OR fingerprint = of_fingerprint)
    ORDER BY fingerprint <> of_fingerprint DESC,
        coalesce(
            (SELECT failure FROM payment WHERE id = claim.operation_id),
            (SELECT failure FROM refund WHERE id = claim.operation_id)
        ) IS NOT DISTINCT FROM 'not_sent',
        caller <> of_caller
    LIMIT 1
$$;
"""
INTENDING = {
    "one_at_a_time('key ' || _caller || ' ' || _key)": "one_at_a_time('key ' || _key)",
    "FROM idempotency_claim WHERE caller = _caller AND idempotency_key = _key": (
        "FROM claim_of(_caller, _key, _fingerprint)"
    ),
    "fingerprint = _fingerprint AND caller = _caller": (
        "fingerprint = _fingerprint AND (caller = _caller OR state IN ('sending', 'unknown'))"
    ),
}
# The laws that refuse it on the tables, whatever the functions of an intent do.
LAWS = rewritten("payment_is_no_repeat", {" AND earlier.caller = NEW.caller": ""}) + rewritten(
    "refund_is_no_repeat", {"earlier.caller = NEW.caller AND ": ""}
)


def upgrade() -> None:
    for part in (
        CLAIMS,
        pinned("claim_of"),
        rewritten("payment_intend", INTENDING),
        rewritten("refund_intend", INTENDING),
        LAWS,
    ):
        run_script(op.get_bind(), part)


def downgrade() -> None:
    op.execute(text("SELECT break_law('no_way_back', 'keys of other callers would be sent again')"))
