"""A payment belongs to the organisation that it was made with, and a shop to that of today.

A key, an account, a webhook and a chat are of shops. When a shop got another owner, those of the new one saw the
payments of the earlier one, were told of them, and paid them back from that seller's account. ``seller_bin`` has the
BINs whose payments a shop shows: today's, and earlier ones that an operator said are of the same seller.
"""

from alembic import op
from sqlalchemy import text

from payment_service.postgres.schema import pinned, rewritten, run_script

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None

SELLERS = """
-- An earlier BIN of a shop that is of the same seller as this one. It says nothing once the shop has another BIN.
CREATE TABLE same_seller (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    shop_id integer NOT NULL,
    organization_bin varchar(12) NOT NULL,
    earlier_bin varchar(12) NOT NULL CHECK (earlier_bin <> organization_bin),
    is_same boolean NOT NULL
);
CREATE UNIQUE INDEX same_seller_once ON same_seller (shop_id, organization_bin, earlier_bin);
CREATE TRIGGER same_seller_kept BEFORE DELETE ON same_seller FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER same_seller_no_truncate BEFORE TRUNCATE ON same_seller
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

CREATE VIEW seller_bin AS
    SELECT shop_id, organization_bin FROM payment_config
    UNION ALL SELECT shop_id, earlier_bin FROM same_seller JOIN payment_config USING (shop_id, organization_bin)
    WHERE is_same;
"""
AUDITED = """
ALTER FUNCTION audited_content(text, text) RENAME TO audited_content_before_sellers;
CREATE FUNCTION audited_content(kind text, of_row text) RETURNS text
LANGUAGE plpgsql STABLE SET timezone = 'UTC' AS $$
BEGIN
    IF kind = 'same_seller' THEN
        RETURN (
            SELECT jsonb_build_object(
                'id', id, 'shop_id', shop_id, 'organization_bin', organization_bin, 'earlier_bin', earlier_bin,
                'is_same', is_same)
            FROM same_seller WHERE id = of_row::integer)::text;
    END IF;
    RETURN audited_content_before_sellers(kind, of_row);
END $$;
CREATE OR REPLACE VIEW audited_today AS
    SELECT kind || ':' || of_row AS subject, audited_content(kind, of_row) AS content FROM (
        SELECT 'payment_config' AS kind, shop_id::text AS of_row FROM payment_config
        UNION ALL SELECT 'device_token', id::text FROM device_token
        UNION ALL SELECT 'fingerprint_key', id::text FROM fingerprint_key
        UNION ALL SELECT 'api_key', id::text FROM api_key
        UNION ALL SELECT 'webhook_endpoint', id::text FROM webhook_endpoint
        UNION ALL SELECT 'notify_chat', id::text FROM notify_chat
        UNION ALL SELECT 'notify_binding', id::text FROM notify_binding
        UNION ALL SELECT 'person', id::text FROM person
        UNION ALL SELECT 'route_change', id::text FROM route_change
        UNION ALL SELECT 'route_rule', id::text FROM route_rule
        UNION ALL SELECT 'audit_retired', partition FROM audit_retired
        UNION ALL SELECT 'same_seller', id::text FROM same_seller
    ) AS rows_of_today;
CREATE CONSTRAINT TRIGGER same_seller_is_audited AFTER INSERT OR UPDATE ON same_seller
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION change_is_audited('id');
"""
CLAIMS = rewritten(
    "claim_deliveries",
    {
        "CASE WHEN t.type = 'test' OR e.shops IS NULL OR t.shop_id = ANY (e.shops) THEN e.url END": (
            "CASE WHEN t.type = 'test' OR e.shops IS NULL\n"
            "                OR t.shop_id = ANY (e.shops) AND event_is_of_seller(event.*) THEN e.url END"
        )
    },
)
REFUNDS = """
-- Whether a payment is one that a key may refund: of its shops, and of their sellers of today. Asked under the lock.
CREATE FUNCTION api_key_may_refund(of_key integer, payment) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT of_key IS NULL OR EXISTS (
        SELECT FROM api_key
        WHERE id = of_key AND (
            shops IS NULL OR ($2).shop_id = ANY (shops) AND (($2).organization_bin IS NULL
                OR (($2).shop_id, ($2).organization_bin) IN (SELECT shop_id, organization_bin FROM seller_bin))))
$$;
"""
INTENDING = rewritten(
    "refund_intend",
    {
        "    SELECT * INTO paid FROM payment WHERE id = _payment_id FOR UPDATE;": """\
    SELECT * INTO paid FROM payment WHERE id = _payment_id FOR UPDATE;
    IF NOT api_key_may_refund(_api_key_id, paid) THEN
        RETURN (now(), 'foreign', paid.id, paid.state, NULL, NULL, NULL, NULL, NULL)::intent;
    END IF;"""
    },
)
EVENTS = """
-- Whether an event is of the shop's seller of today: another one's payments are not told to those of the shop.
CREATE FUNCTION event_is_of_seller(event) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT taken_with IS NULL OR (($1).shop_id, taken_with) IN (SELECT shop_id, organization_bin FROM seller_bin)
    FROM (
        SELECT CASE ($1).subject
            WHEN 'payment' THEN ($1).data ->> 'organization_bin'
            WHEN 'refund' THEN ($1).data #>> '{payment,organization_bin}'
        END
    ) AS said (taken_with)
$$;
"""


def upgrade() -> None:
    paths = pinned("audited_content", "event_is_of_seller", "api_key_may_refund")
    for part in (SELLERS, AUDITED, EVENTS, REFUNDS, paths, CLAIMS, INTENDING):
        run_script(op.get_bind(), part)


def downgrade() -> None:
    op.execute(text("SELECT break_law('no_way_back', 'payments of earlier owners would be shown again')"))
