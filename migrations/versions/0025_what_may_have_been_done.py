"""What may have been done counts as done, whoever says so.

A refund that others report with an error counted as refused, whatever the error was: a timeout of the old service's
log was paid back again. It is refused only where the error says that nothing was paid back: by a code of Kaspi's that
says so, by an HTTP status with which the proxy turns a call away, or because there was no connection.

And a refund whose end is not known was sent once more when it came under another Idempotency-Key, as a page makes one
that is loaded anew. A payment has the guard of its order; a refund waits until the end of its equal is known.

A payment that a person had called never made, and whose late reply says that it was made, stayed failed: nothing kept
its order from a second invoice. It is open again.
"""

from alembic import op
from sqlalchemy import text

from payment_service.postgres.schema import pinned, rewritten, run_script

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None

# The codes are those of providers/kaspi/mapping.py; a test compares them.
REFUSED = r"""
CREATE FUNCTION refund_was_refused(error_message text) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT NOT starts_with(error_message, 'Outcome unknown') AND (
        starts_with(error_message, 'Nothing was sent')
        OR error_message ~ '(^|[^0-9A-Za-z-])-(10000|1501|1502|1503|1601|14000002|9900000[1235]|99000011|99000020)\M'
        OR error_message ~ '(^|[^0-9A-Za-z])9900000(18|26|28|33)\M'
        OR error_message ~ '^HTTP (401|403|404|405|429)\M'
        -- Of curl: no such host, no connection, no certificate of ours, none that is trusted.
        OR error_message ~* '\mcurl (error )?(6|7|58|60)\M'
    )
$$;
"""
ELSEWHERE = rewritten(
    "refunds_elsewhere",
    {
        "coalesce(error_message, '') = '' OR starts_with(error_message, 'Outcome unknown') AS was_made": (
            "refund_was_refused(error_message) IS NOT TRUE AS was_made"
        )
    },
)
OPEN = rewritten(
    "refund_intend",
    {
        "    IF NOT in_time(_within_s) THEN": """    -- What left and was lost is written again anyway.
    IF _key IS NOT NULL AND current_setting('payment_service.restoring', true) IS DISTINCT FROM 'on' THEN
        SELECT * INTO earlier FROM refund
        WHERE payment_id = _payment_id AND fingerprint = _fingerprint AND state IN ('sending', 'unknown') LIMIT 1;
        IF FOUND THEN
            RETURN refund_in_the_way(earlier, 'open');
        END IF;
    END IF;
    IF NOT in_time(_within_s) THEN"""
    },
)
REOPENED = rewritten(
    "payment_changes",
    {
        "        ELSIF (OLD.state, NEW.state) NOT IN (": (
            """        ELSIF OLD.state = 'failed' AND OLD.failure = 'settled' AND NEW.state = 'pending' THEN
            NULL;
        ELSIF (OLD.state, NEW.state) NOT IN ("""
        )
    },
)
PATHS = pinned("refund_was_refused")


def upgrade() -> None:
    for part in (REFUSED, ELSEWHERE, OPEN, REOPENED, PATHS):
        run_script(op.get_bind(), part)


def downgrade() -> None:
    op.execute(text("SELECT break_law('no_way_back', 'what others may have paid back would be paid back again')"))
