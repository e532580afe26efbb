-- Quotas of single agents, and kill switches.

INSERT INTO schema_migrations (version, name) VALUES (12, 'admission');

ALTER TABLE agents
    ADD COLUMN inbox_messages_max bigint CHECK (inbox_messages_max >= 0),
    ADD COLUMN inbox_bytes_max bigint CHECK (inbox_bytes_max >= 0);

COMMENT ON COLUMN agents.inbox_messages_max IS 'what its inbox may hold; null: as the deployment says, 0: any number';
COMMENT ON COLUMN agents.inbox_bytes_max IS 'the same in bytes of Redis';

-- What operators have switched off. Few rows, read whole by every process that routes or takes messages.
CREATE TABLE kill_switches (
    id uuid PRIMARY KEY,
    agent_id uuid,
    peer_id uuid,
    root_id uuid,
    reason text,
    created_at timestamptz NOT NULL,
    CHECK (num_nonnulls(agent_id, root_id) = 1),
    CHECK (peer_id IS NULL OR agent_id IS NOT NULL)
);

-- The same thing is switched off once.
CREATE UNIQUE INDEX kill_switches_what ON kill_switches (agent_id, peer_id, root_id) NULLS NOT DISTINCT;
