-- Bad ends: senders are told of them once, and attempts say whose they were.

INSERT INTO schema_migrations (version, name) VALUES (11, 'bad_ends');

ALTER TABLE agent_messages ADD COLUMN told_round smallint;
COMMENT ON COLUMN agent_messages.told_round IS 'the last round whose bad end its sender was told of; null: none';

-- How many notes a sender got since `began_at`, and what was only counted: the keeper sums that up in one note.
CREATE TABLE bounce_windows (
    agent_id uuid PRIMARY KEY,
    began_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    told integer NOT NULL DEFAULT 0,
    held bigint NOT NULL DEFAULT 0,
    reasons jsonb NOT NULL DEFAULT '{}'
) WITH (fillfactor = 70);
COMMENT ON COLUMN bounce_windows.agent_id IS 'the sender';
COMMENT ON COLUMN bounce_windows.reasons IS 'of what was held: how many ended for each reason';

CREATE INDEX bounce_windows_began ON bounce_windows (began_at);

ALTER TABLE message_delivery_log ADD COLUMN agent_id uuid;
COMMENT ON COLUMN message_delivery_log.agent_id IS 'whose attempt it was; null: of the agent first chosen';
