"""A device token stays with its BIN, an order with its id, a database with its provider.

A shop whose BIN was changed alone kept the token of the seller before: every payment went out under the new BIN with
the old seller's token. No public text of Kaspi's says that such a pair is refused. Rows that are there keep what they
have: only who changes a BIN or a token is asked.

The guard of an order compares its id. An id that only looks like another one, by what is not drawn or by how a letter
is composed, was another order, and its payment was sent beside the first.

A process with the address of a stand-in, or of a test environment's proxy, read the states of real payments there and
wrote them down. Which address the payments are of is remembered with who released the database.

And the window in which an equal request is the same one was over as soon as PostgreSQL's clock stepped forward.
"""

from alembic import op
from sqlalchemy import text

from payment_service.postgres.schema import pinned, rewritten, run_script

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

TOKENS = """
CREATE FUNCTION token_is_of_its_bin() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND (NEW.organization_bin, NEW.device_token_id) = (OLD.organization_bin, OLD.device_token_id)
    THEN
        RETURN NULL;
    END IF;
    IF EXISTS (
        SELECT FROM payment_config_history
        WHERE device_token_id = NEW.device_token_id AND organization_bin <> NEW.organization_bin
    ) THEN
        PERFORM break_law('token_of_its_bin', 'a device token stays with the BIN that it was registered for');
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER payment_config_token_of_its_bin AFTER INSERT OR UPDATE ON payment_config
    FOR EACH ROW WHEN (NEW.device_token_id IS NOT NULL) EXECUTE FUNCTION token_is_of_its_bin();
"""

ORDERS = r"""
-- Composed, no space that looks like another one or that is not seen, and no character that is not drawn.
CREATE FUNCTION order_id_is_seen(order_id text) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT order_id IS NFC NORMALIZED AND order_id !~ ('^ | $|  |['
        '\u00A0\u00AD\u034F\u061C\u115F\u1160\u1680\u17B4\u17B5\u180B-\u180F\u2000-\u200F\u2028-\u202F\u205F-\u206F'
        '\u2800\u3000\u3164\uFE00-\uFE0F\uFEFF\uFFA0\uFFF0-\uFFFB\U0001D173-\U0001D17A\U000E0000-\U000E0FFF]')
$$;
"""
LAW = rewritten(
    "payment_is_no_repeat",
    {
        "    IF NOT NEW.keyed AND EXISTS (": """    IF NOT order_id_is_seen(NEW.order_id) THEN
        PERFORM break_law('payment_order_is_seen', 'an order id holds what can be seen, in its composed form');
    END IF;
    IF NOT NEW.keyed AND EXISTS (""",
    },
)

WINDOW = """
-- For how many seconds the end of a request is known to one that equals it. When PostgreSQL's clock steps forward, the
-- window in which they are the same looks over: their ids tell by the services' clocks how far apart they are.
CREATE FUNCTION seconds_known(since timestamptz, earlier uuid, later uuid, window_s float8) RETURNS float8
LANGUAGE sql STABLE AS $$
    SELECT least(extract(epoch FROM now() - since)::float8, CASE WHEN abs(apart_s) < window_s THEN abs(apart_s) END)
    FROM (SELECT extract(epoch FROM moment_of(later::text) - moment_of(earlier::text))::float8) AS ids (apart_s)
$$;
"""
ALIKE = {
    "coalesce(earlier.known_at, earlier.created_at) > now() - make_interval(secs => _window_s)) THEN": (
        "seconds_known(coalesce(earlier.known_at, earlier.created_at), earlier.id, _id, _window_s) < _window_s) THEN"
    ),
    "BEGIN\n    IF NOT api_key_holds": "    in_the_way intent;\nBEGIN\n    IF NOT api_key_holds",
}
KNOWN = """in_the_way.known_s :=
                seconds_known(coalesce(earlier.known_at, earlier.created_at), earlier.id, _id, _window_s);
            RETURN in_the_way;"""
INTENDING = rewritten(
    "payment_intend",
    ALIKE
    | {
        "RETURN payment_in_the_way(earlier, true, 'alike');": (
            f"in_the_way := payment_in_the_way(earlier, true, 'alike');\n            {KNOWN}"
        )
    },
) + rewritten(
    "refund_intend",
    ALIKE
    | {
        "RETURN refund_in_the_way(earlier, 'alike');": (
            f"in_the_way := refund_in_the_way(earlier, 'alike');\n            {KNOWN}"
        )
    },
)

PROVIDER = "ALTER TABLE sending_hold ADD COLUMN provider varchar(2000);"


def upgrade() -> None:
    paths = pinned("token_is_of_its_bin", "order_id_is_seen", "seconds_known")
    for part in (PROVIDER, TOKENS, ORDERS, WINDOW, paths, LAW, INTENDING):
        run_script(op.get_bind(), part)


def downgrade() -> None:
    op.execute(text("SELECT break_law('no_way_back', 'money could go out with the token of another seller')"))
