-- Idempotency keys; what listing and replaying dead letters takes.

INSERT INTO schema_migrations (version, name) VALUES (6, 'idempotency');

-- A claim is written before its operation runs, with the id under which it runs: whoever comes with the same key
-- before there is a reply runs it under the same id, which does nothing twice.
CREATE TABLE idempotency_keys (
    key bytea PRIMARY KEY,
    body bytea NOT NULL,
    target_id uuid NOT NULL,
    claimed_at timestamptz NOT NULL,
    status smallint,
    reply bytea,
    headers jsonb
) WITH (autovacuum_vacuum_scale_factor = 0.05);
COMMENT ON COLUMN idempotency_keys.key IS 'SHA-256 of operation, caller and key';
COMMENT ON COLUMN idempotency_keys.body IS 'SHA-256 of the request in canonical form';
COMMENT ON COLUMN idempotency_keys.status IS 'of the reply; null: none has been given yet';

CREATE INDEX idempotency_keys_claimed ON idempotency_keys (claimed_at);

-- --- dead letters ------------------------------------------------------------------------------------------

-- Newest first, of everybody, of a recipient, of a sender. Only what failed or expired is in them.
CREATE INDEX agent_messages_dead ON agent_messages (created_at, id) WHERE status IN ('failed', 'expired');
CREATE INDEX agent_messages_dead_received ON agent_messages (to_agent_id, created_at, id)
    WHERE status IN ('failed', 'expired');
CREATE INDEX agent_messages_dead_sent ON agent_messages (from_agent_id, created_at, id)
    WHERE status IN ('failed', 'expired');

ALTER TABLE agent_messages ADD COLUMN requirements jsonb;
COMMENT ON COLUMN agent_messages.requirements IS 'the capabilities needed; null: its sender named the recipient';
