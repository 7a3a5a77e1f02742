"""Sessions that begin at an OpenID provider: each by an attempt of its own, also of an account without a password."""

from alembic import op
from sqlalchemy import text

from payment_service.postgres.schema import pinned, run_script

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

SESSIONS = """
-- The digest of the attempt's nonce: an attempt begins one session. NULL for a session that began with a password.
ALTER TABLE person_session ADD COLUMN openid_nonce varchar(64)
    CONSTRAINT person_session_openid_nonce_key UNIQUE CHECK (openid_nonce ~ '^[0-9a-f]{64}$');

CREATE OR REPLACE FUNCTION person_session_changes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        -- The lock lets a change of the account and the beginning of a session wait for each other.
        IF NOT (SELECT disabled_at IS NULL AND (password_hash IS NOT NULL OR NEW.openid_nonce IS NOT NULL)
                FROM person WHERE id = NEW.person_id FOR SHARE) THEN
            PERFORM break_law('person_session_of_an_account',
                              'only an account with a password, or one that a provider knows, signs in');
        END IF;
        IF NEW.proved_at > now() THEN
            PERFORM break_law('person_session_fixed', 'nobody has said who they are in the future');
        END IF;
    ELSIF OLD.ended_at IS NOT NULL
       OR NEW.proved_at < OLD.proved_at OR NEW.proved_at > now()
       OR (NEW.digest, NEW.person_id, NEW.created_at, NEW.expires_at, NEW.openid_nonce)
          IS DISTINCT FROM (OLD.digest, OLD.person_id, OLD.created_at, OLD.expires_at, OLD.openid_nonce) THEN
        PERFORM break_law('person_session_fixed', 'a session that ended stays so, and whose it is never changes');
    END IF;
    RETURN NEW;
END $$;
"""


def upgrade() -> None:
    for part in (SESSIONS, pinned("person_session_changes")):
        run_script(op.get_bind(), part)


def downgrade() -> None:
    op.execute(text("SELECT break_law('no_way_back', 'how a session began is kept as long as the session')"))
