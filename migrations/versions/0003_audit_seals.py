"""Seals of the audit log: each covers the rows after the one before it, holds their digests and that seal's hash.

The database holds the chain (no fork, no hole, no overlap) and that nothing of it is changed. Whether the hashes are
right only ``payment-service audit verify`` can tell.
"""

from alembic import op
from sqlalchemy import text

from payment_service.postgres.schema import run_script

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

SEALS = """
CREATE TABLE audit_seal (
    seq bigint PRIMARY KEY,
    form smallint NOT NULL CHECK (form > 0),
    previous_seq bigint,
    previous_hash varchar(64) NOT NULL,
    after_id bigint NOT NULL,
    last_id bigint NOT NULL,
    row_count integer NOT NULL CHECK (row_count BETWEEN 1 AND 1000),
    row_ids bigint[] NOT NULL,
    row_digests bytea NOT NULL,
    hash varchar(64) NOT NULL CHECK (hash ~ '^[0-9a-f]{64}$'),
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT audit_seal_has_its_place CHECK (
        CASE WHEN seq = 1 THEN previous_seq IS NULL AND previous_hash = repeat('0', 64) AND after_id = 0
        ELSE seq > 1 AND coalesce(previous_seq = seq - 1, false) END),
    CONSTRAINT audit_seal_fits_its_rows CHECK (
        cardinality(row_ids) = row_count AND octet_length(row_digests) = 32 * row_count
        AND row_ids[1] > after_id AND row_ids[row_count] = last_id AND last_id - after_id >= row_count)
);
-- A seal is chained to the one seal before it, and begins where that one ends.
CREATE UNIQUE INDEX audit_seal_chain ON audit_seal (seq, hash, last_id);
ALTER TABLE audit_seal ADD CONSTRAINT audit_seal_follows
    FOREIGN KEY (previous_seq, previous_hash, after_id) REFERENCES audit_seal (seq, hash, last_id);
CREATE UNIQUE INDEX audit_seal_hash ON audit_seal (hash);
CREATE INDEX audit_seal_last_id ON audit_seal (last_id);

CREATE TRIGGER audit_seal_insert_only BEFORE UPDATE OR DELETE ON audit_seal
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER audit_seal_no_truncate BEFORE TRUNCATE ON audit_seal
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
REVOKE UPDATE, DELETE, TRUNCATE ON audit_seal FROM PUBLIC;
"""


def upgrade() -> None:
    run_script(op.get_bind(), SEALS)


def downgrade() -> None:
    op.execute(text("SELECT break_law('no_way_back', 'seals are what the record is proved by: they stay')"))
