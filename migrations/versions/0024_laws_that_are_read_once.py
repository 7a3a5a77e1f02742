"""The laws of a row are read once for each connection, not again for each statement.

PostgreSQL parses every CHECK of a table, and the WHEN of every trigger, anew for each statement that writes to it:
70 kB of text for one payment. So what a payment writes (``payment``, ``payment_log``, ``event``) has one CHECK each, a
function with all its laws: still a CHECK, which no setting switches off, and it names the law that is broken with the
words that PostgreSQL has for it. For the same reason the version of a payment and the end of a doubt are written where
its other changes are judged.

An expression with a query in it is run as a query each time, even where its first word decides: the query has a
condition of its own around it.
"""

from alembic import op
from sqlalchemy import text

from payment_service.postgres.schema import pinned, rewritten, run_briefly, run_script

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None

LAWS = """
CREATE OR REPLACE FUNCTION keeps_laws(of_table text, broken text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF broken IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'check_violation', TABLE = of_table, CONSTRAINT = broken,
            MESSAGE = format('new row for relation "%s" violates check constraint "%s"', of_table, broken);
    END IF;
    RETURN true;
END $$;

-- As with a CHECK, what cannot be told (NULL) is no breach.
CREATE OR REPLACE FUNCTION payment_keeps_laws(one payment) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    broken text := CASE
        WHEN one.source NOT IN ('service', 'client') THEN 'payment_source_check'
        WHEN one.method NOT IN ('phone', 'link') THEN 'payment_method_check'
        WHEN one.state NOT IN ('sending', 'pending', 'paid', 'failed', 'cancelled', 'unknown')
            THEN 'payment_state_check'
        WHEN one.failure NOT IN ('not_sent', 'refused', 'rejected', 'declined', 'settled')
            THEN 'payment_failure_check'
        WHEN NOT bin_is_valid(one.organization_bin) THEN 'payment_organization_bin_check'
        WHEN one.amount NOT BETWEEN 1 AND 9999999999 THEN 'payment_amount_check'
        WHEN one.phone_last4 !~ '^[0-9]{4}$' THEN 'payment_phone_last4_check'
        WHEN one.order_id = '' THEN 'payment_order_id_check'
        WHEN jsonb_typeof(one.metadata) <> 'object' THEN 'payment_metadata_check'
        WHEN one.refunded_amount < 0 THEN 'payment_refunded_amount_check'
        WHEN one.reserved_amount < 0 THEN 'payment_reserved_amount_check'
        WHEN one.unread < 0 THEN 'payment_unread_check'
        WHEN one.source <> 'client' AND num_nulls(one.method, one.route_version, one.organization_bin, one.amount,
            one.short_code, one.fingerprint) > 0 THEN 'payment_of_ours_is_whole'
        WHEN one.source <> 'client' AND (one.method = 'phone') <> (one.phone_last4 IS NOT NULL)
            THEN 'payment_phone_fits_method'
        WHEN one.source <> 'client' AND one.method <> 'phone' AND one.device_token_id IS NULL
            THEN 'payment_link_has_token'
        WHEN one.source <> 'service' AND one.external_id IS NULL THEN 'payment_of_client_has_external_id'
        WHEN one.device_token_id IS NOT NULL AND one.route_version IS NULL THEN 'payment_token_has_route'
        WHEN (one.state = 'failed') <> (one.failure IS NOT NULL) THEN 'payment_failure_fits_state'
        WHEN one.state IN ('pending', 'paid', 'cancelled') AND one.external_id IS NULL
            THEN 'payment_is_known_to_provider'
        WHEN one.id_from_settlement AND (one.external_id IS NULL OR one.state IN ('sending', 'unknown'))
            THEN 'payment_id_from_settlement_is_settled'
        WHEN one.refunded_amount + one.reserved_amount > coalesce(one.amount, 0) THEN 'payment_refunds_within_amount'
        WHEN one.same_as IS NOT NULL AND (one.source <> 'client' OR one.refunded_amount <> 0
            OR one.reserved_amount <> 0 OR one.next_check_at IS NOT NULL) THEN 'payment_only_reports_are_merged'
    END;
BEGIN
    RETURN broken IS NULL OR keeps_laws('payment', broken);
END $$;

-- Columns, for a partition is another type of row.
CREATE OR REPLACE FUNCTION payment_log_keeps_laws(
    _operation_type text, _source text, _state text, _amount bigint, _reason text, _report_id text, _subject text,
    _content text
) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    broken text := CASE
        WHEN _source NOT IN ('service', 'client', 'legacy') THEN 'payment_log_source_check'
        WHEN _amount < 0 THEN 'payment_log_amount_check'
        WHEN _report_id = '' THEN 'payment_log_report_id_check'
        WHEN (_subject IS NULL) <> (_content IS NULL) OR (_subject IS NOT NULL AND _source <> 'service')
            THEN 'payment_log_subject_has_content'
        WHEN _operation_type = 'settle' AND _source <> 'client' AND coalesce(_state, '') <> 'unknown'
            AND coalesce(btrim(_reason), '') = '' THEN 'payment_log_settling_has_reason'
        WHEN _operation_type = 'settle-undo' AND _source <> 'client' AND coalesce(btrim(_reason), '') = ''
            THEN 'payment_log_undoing_has_reason'
    END;
BEGIN
    RETURN broken IS NULL OR keeps_laws('payment_log', broken);
END $$;

CREATE OR REPLACE FUNCTION event_keeps_laws(_type text, _subject text, _version integer, _data jsonb) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    broken text := CASE
        WHEN _type NOT IN (
            'payment.pending', 'payment.paid', 'payment.failed', 'payment.cancelled', 'payment.unknown',
            'payment.late_success', 'refund.succeeded', 'refund.failed', 'refund.unknown', 'route.proposed',
            'route.refused', 'route.changed', 'endpoint.disabled', 'endpoint.recovered', 'test'
        ) THEN 'event_type_check'
        WHEN _subject NOT IN ('payment', 'refund', 'route', 'endpoint', 'test') THEN 'event_subject_check'
        WHEN _version <= 0 THEN 'event_version_check'
        WHEN jsonb_typeof(_data) <> 'object' THEN 'event_data_check'
    END;
BEGIN
    RETURN broken IS NULL OR keeps_laws('event', broken);
END $$;

-- The codes of the digits stand for the digits: 48 is added to each, 66 times in all, and 48 * 66 is a multiple of 11.
CREATE OR REPLACE FUNCTION bin_is_valid(bin text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE STRICT AS $$
DECLARE
    code bytea;
    remainder integer;
BEGIN
    IF bin !~ '^[0-9]{12}$' OR bin = '000000000000' THEN
        RETURN false;
    END IF;
    code := bin::bytea;
    remainder := (get_byte(code, 0) + 2 * get_byte(code, 1) + 3 * get_byte(code, 2) + 4 * get_byte(code, 3)
        + 5 * get_byte(code, 4) + 6 * get_byte(code, 5) + 7 * get_byte(code, 6) + 8 * get_byte(code, 7)
        + 9 * get_byte(code, 8) + 10 * get_byte(code, 9) + 11 * get_byte(code, 10)) % 11;
    IF remainder = 10 THEN
        remainder := (3 * get_byte(code, 0) + 4 * get_byte(code, 1) + 5 * get_byte(code, 2) + 6 * get_byte(code, 3)
            + 7 * get_byte(code, 4) + 8 * get_byte(code, 5) + 9 * get_byte(code, 6) + 10 * get_byte(code, 7)
            + 11 * get_byte(code, 8) + get_byte(code, 9) + 2 * get_byte(code, 10)) % 11;
    END IF;
    RETURN remainder = get_byte(code, 11) - 48;
END $$;
"""
CHECKS = {
    "payment": "payment_keeps_laws(payment)",
    "payment_log": (
        "payment_log_keeps_laws(operation_type, source, state, amount, reason, report_id, subject, content)"
    ),
    "event": "event_keeps_laws(type, subject, version, data)",
}
# A CHECK that the function does not have stays. What is there has kept the same laws until now, so it is read
# afterwards, when nobody waits for it.
SWITCH = """
DO $$
DECLARE
    law text;
BEGIN
    FOR law IN SELECT conname FROM pg_constraint
        WHERE conrelid = '{table}'::regclass AND contype = 'c'
          AND position(quote_literal(conname) IN pg_get_functiondef('{table}_keeps_laws'::regproc)) > 0
    LOOP
        EXECUTE format('ALTER TABLE {table} DROP CONSTRAINT %I', law);
    END LOOP;
END $$;
ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {table}_keeps_laws,
    ADD CONSTRAINT {table}_keeps_laws CHECK ({check}) NOT VALID;
"""
READ_ONCE = "ALTER TABLE {table} VALIDATE CONSTRAINT {table}_keeps_laws;"

TRIGGERS = """
DROP TRIGGER IF EXISTS payment_version ON payment;
DROP TRIGGER IF EXISTS payment_known ON payment;
CREATE OR REPLACE TRIGGER payment_route_is_of_history BEFORE INSERT OR UPDATE ON payment FOR EACH ROW
    WHEN (NEW.source = 'client') EXECUTE FUNCTION payment_route_is_of_history();
"""
CHANGES = rewritten(
    "payment_changes",
    {
        """
       -- Unless the payment that it was merged into gave its id back.
       AND NOT (NEW.same_as IS NULL AND NEW.state = OLD.state AND EXISTS (
           SELECT FROM payment WHERE id = OLD.same_as AND external_id IS NULL)) THEN
        PERFORM break_law('payment_merged_is_fixed', 'a report that was merged into a payment stays as it is');
    END IF;""": """ THEN
       -- Unless the payment that it was merged into gave its id back.
        IF NOT (NEW.same_as IS NULL AND NEW.state = OLD.state AND EXISTS (
           SELECT FROM payment WHERE id = OLD.same_as AND external_id IS NULL)) THEN
            PERFORM break_law('payment_merged_is_fixed', 'a report that was merged into a payment stays as it is');
        END IF;
    END IF;""",
        """        NEW.moved_at := now();
    END IF;""": """        NEW.moved_at := now();
        IF OLD.state IN ('sending', 'unknown') AND NEW.state NOT IN ('sending', 'unknown') THEN
            NEW.known_at := now();
        END IF;
    END IF;
    -- What callers see of a payment has changed; when it is asked about next is nobody's business.
    IF (OLD.state, OLD.status, OLD.external_id, OLD.payment_link, OLD.expire_date, OLD.refunded_amount, OLD.amount,
        OLD.organization_bin, OLD.same_as, OLD.version)
       IS DISTINCT FROM
       (NEW.state, NEW.status, NEW.external_id, NEW.payment_link, NEW.expire_date, NEW.refunded_amount, NEW.amount,
        NEW.organization_bin, NEW.same_as, NEW.version) THEN
        NEW.version := OLD.version + 1;
    END IF;""",
    },
)
AUDITED = rewritten(
    "move_is_audited",
    {
        "IF undoes AND EXISTS (": "IF NOT undoes THEN\n        RETURN NULL;\n    END IF;\n    IF EXISTS (",
    },
)


def upgrade() -> None:
    bind = op.get_bind()
    run_script(bind, LAWS + pinned("keeps_laws", *(f"{table}_keeps_laws" for table in CHECKS), "bin_is_valid"))
    with op.get_context().autocommit_block():
        for table, check in CHECKS.items():
            run_briefly(bind, SWITCH.format(table=table, check=check))
            run_script(bind, READ_ONCE.format(table=table))
    run_briefly(bind, TRIGGERS + CHANGES + AUDITED)


def downgrade() -> None:
    op.execute(text("SELECT break_law('no_way_back', 'the laws of a row have one place since')"))
