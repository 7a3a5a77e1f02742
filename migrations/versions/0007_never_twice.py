"""Never twice: an equal request without a key may not start while its like is in flight; what write 2 can refuse goes.

An event told of a payment whose metadata was within its limits, and was refused for its size after the money had
moved. So the size is limited where the metadata comes in, and an event has no size of its own. Rows that are there
keep their metadata: a limit on them would refuse their next move. And twelve zeros are no BIN.
"""

from alembic import op
from sqlalchemy import text

from payment_service.postgres.schema import run_script

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

EVENTS = """
ALTER TABLE event DROP CONSTRAINT event_data_check;
ALTER TABLE event ADD CONSTRAINT event_data_check CHECK (jsonb_typeof(data) = 'object');
"""

NO_BIN = """
-- Twelve zeros have a right checksum, and are nobody's. Rows that hold them could not move any more.
DO $$
BEGIN
    IF EXISTS (SELECT FROM payment_config WHERE organization_bin = '000000000000')
       OR EXISTS (SELECT FROM payment WHERE organization_bin = '000000000000') THEN
        RAISE EXCEPTION 'a shop has the BIN 000000000000, which is none: set the right one before this upgrade';
    END IF;
END $$;
CREATE OR REPLACE FUNCTION bin_is_valid(bin text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE STRICT AS $$
DECLARE
    first int := 0;
    second int := 0;
BEGIN
    IF bin !~ '^[0-9]{12}$' OR bin = '000000000000' THEN
        RETURN false;
    END IF;
    FOR i IN 1..11 LOOP
        first := first + i * substr(bin, i, 1)::int;
        second := second + ((i + 1) % 11 + 1) * substr(bin, i, 1)::int;
    END LOOP;
    RETURN CASE WHEN first % 11 < 10 THEN first % 11 ELSE second % 11 END = substr(bin, 12, 1)::int;
END $$;
"""

IN_FLIGHT = """
-- Nobody can tell of the rows that are there, and only a new row is asked.
ALTER TABLE payment ADD COLUMN keyed boolean NOT NULL DEFAULT true;
ALTER TABLE refund ADD COLUMN keyed boolean NOT NULL DEFAULT true;

-- Since when it is known what became of it: whoever asks again right after a long doubt means the same request.
ALTER TABLE payment ADD COLUMN known_at timestamptz;
ALTER TABLE refund ADD COLUMN known_at timestamptz;
CREATE FUNCTION doubt_ends() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.known_at := now();
    RETURN NEW;
END $$;
CREATE TRIGGER payment_known BEFORE UPDATE OF state ON payment FOR EACH ROW
    WHEN (OLD.state IN ('sending', 'unknown') AND NEW.state NOT IN ('sending', 'unknown'))
    EXECUTE FUNCTION doubt_ends();
CREATE TRIGGER refund_known BEFORE UPDATE OF state ON refund FOR EACH ROW
    WHEN (OLD.state IN ('sending', 'unknown') AND NEW.state NOT IN ('sending', 'unknown'))
    EXECUTE FUNCTION doubt_ends();

CREATE FUNCTION payment_is_no_repeat() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF octet_length(NEW.metadata::text) > 8192 THEN
        PERFORM break_law('payment_metadata_fits', 'the metadata of a payment is at most 8 kB of JSON');
    END IF;
    IF NOT NEW.keyed AND EXISTS (
        SELECT FROM payment AS earlier
        WHERE earlier.fingerprint = NEW.fingerprint AND earlier.caller = NEW.caller
          AND earlier.state IN ('sending', 'unknown')
    ) THEN
        PERFORM break_law('payment_like_in_flight', 'nobody knows yet what became of an equal payment');
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER payment_is_no_repeat BEFORE INSERT ON payment
    FOR EACH ROW WHEN (NEW.source = 'service') EXECUTE FUNCTION payment_is_no_repeat();

CREATE FUNCTION refund_is_no_repeat() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT NEW.keyed AND EXISTS (
        SELECT FROM refund AS earlier
        WHERE earlier.payment_id = NEW.payment_id AND earlier.fingerprint = NEW.fingerprint
          AND earlier.caller = NEW.caller AND earlier.state IN ('sending', 'unknown')
    ) THEN
        PERFORM break_law('refund_like_in_flight', 'nobody knows yet what became of an equal refund');
    END IF;
    RETURN NEW;
END $$;
-- After refund_starts, which locks the payment: of two equal refunds at once one sees the other.
CREATE TRIGGER refund_starts_no_repeat BEFORE INSERT ON refund
    FOR EACH ROW EXECUTE FUNCTION refund_is_no_repeat();
"""


def upgrade() -> None:
    run_script(op.get_bind(), EVENTS)
    run_script(op.get_bind(), NO_BIN)
    run_script(op.get_bind(), IN_FLIGHT)


def downgrade() -> None:
    op.execute(text("SELECT break_law('no_way_back', 'whether a key came with a payment would be forgotten')"))
