"""Messages to people: chats, what they are bound to, one message per event and chat, and the pace of each channel.

A message that was sent or given up stays as it is, and none is ever deleted.
"""

from alembic import op
from sqlalchemy import text

from payment_service.postgres.schema import run_script

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

NOTIFY = """
CREATE TABLE notify_chat (
    id uuid PRIMARY KEY,
    channel varchar(10) NOT NULL CHECK (channel IN ('telegram', 'email')),
    address varchar(254) NOT NULL CHECK (address <> ''),
    disabled_at timestamptz,
    disabled_reason varchar(200),
    next_send_at timestamptz NOT NULL DEFAULT now(),
    failures integer NOT NULL DEFAULT 0 CHECK (failures >= 0),
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT notify_chat_address UNIQUE (channel, address),
    CONSTRAINT notify_chat_disabled_for_a_reason CHECK ((disabled_at IS NULL) = (disabled_reason IS NULL))
);

CREATE TABLE notify_binding (
    id uuid PRIMARY KEY,
    chat_id uuid NOT NULL REFERENCES notify_chat (id),
    shop_id integer CHECK (shop_id > 0),
    events varchar(30)[] NOT NULL CHECK (cardinality(events) > 0),
    language varchar(2) NOT NULL CHECK (language IN ('ru', 'kk', 'en')),
    description varchar(200) NOT NULL DEFAULT '',
    is_active boolean NOT NULL DEFAULT true,
    created_by varchar(100) NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
-- One line per chat and shop, and one for all shops.
CREATE UNIQUE INDEX notify_binding_once ON notify_binding (chat_id, coalesce(shop_id, 0));
CREATE INDEX notify_binding_shop ON notify_binding (shop_id) WHERE is_active;
CREATE FUNCTION notify_binding_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.updated_at := now();
    RETURN NEW;
END $$;
CREATE TRIGGER notify_binding_changed BEFORE UPDATE ON notify_binding
    FOR EACH ROW EXECUTE FUNCTION notify_binding_changed();

CREATE TABLE notify_message (
    event_id uuid NOT NULL REFERENCES event (id),
    chat_id uuid NOT NULL REFERENCES notify_chat (id),
    language varchar(2) NOT NULL CHECK (language IN ('ru', 'kk', 'en')),
    state varchar(10) NOT NULL CHECK (state IN ('waiting', 'failed', 'sent', 'dead')),
    tries integer NOT NULL DEFAULT 0 CHECK (tries >= 0),
    reason varchar(200),
    channel_message_id varchar(100),
    created_at timestamptz NOT NULL DEFAULT now(),
    tried_at timestamptz,
    sent_at timestamptz,
    PRIMARY KEY (event_id, chat_id),
    CONSTRAINT notify_message_sent_has_its_time CHECK ((state = 'sent') = (sent_at IS NOT NULL)),
    CONSTRAINT notify_message_says_why_not CHECK (state NOT IN ('failed', 'dead') OR reason IS NOT NULL)
);
CREATE INDEX notify_message_open ON notify_message (chat_id, event_id) WHERE state IN ('waiting', 'failed');
CREATE INDEX notify_message_chat ON notify_message (chat_id, created_at);
CREATE FUNCTION notify_message_changes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' OR OLD.state IN ('sent', 'dead')
       OR (NEW.event_id, NEW.chat_id, NEW.language, NEW.created_at)
          IS DISTINCT FROM (OLD.event_id, OLD.chat_id, OLD.language, OLD.created_at) THEN
        PERFORM break_law('notify_message_fixed', 'a message that was sent or given up stays as it is');
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER notify_message_fixed BEFORE UPDATE OR DELETE ON notify_message
    FOR EACH ROW EXECUTE FUNCTION notify_message_changes();
CREATE TRIGGER notify_message_no_truncate BEFORE TRUNCATE ON notify_message
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

CREATE TABLE notify_pace (
    channel varchar(10) PRIMARY KEY,
    free_at timestamptz NOT NULL DEFAULT now()
);
"""


def upgrade() -> None:
    run_script(op.get_bind(), NOTIFY)


def downgrade() -> None:
    op.execute(text("SELECT break_law('no_way_back', 'what people were told is part of the record: it stays')"))
