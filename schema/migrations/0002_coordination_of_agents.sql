-- What agents say about themselves and how they may be reached: presence, contact policy, departure.

INSERT INTO schema_migrations (version, name) VALUES (2, 'coordination_of_agents');

ALTER TABLE agents
    ADD COLUMN status_message text,
    ADD COLUMN accepts_work_orders boolean NOT NULL DEFAULT true,
    ADD COLUMN contact_policy text COLLATE "C" NOT NULL DEFAULT 'open'
        CHECK (contact_policy IN ('open', 'contacts_only', 'closed')),
    ADD COLUMN deleted_at timestamptz;

COMMENT ON COLUMN agents.deleted_at IS 'the agent is leaving: its row stays until nothing waits for it any more';

-- A name is free again as soon as its agent is deleted.
ALTER TABLE agents DROP CONSTRAINT agents_name_key;
CREATE UNIQUE INDEX agents_name_key ON agents (name) WHERE deleted_at IS NULL;

-- Keys given out before these scopes existed get them: they belong to every agent.
UPDATE agent_keys
SET scopes = ARRAY(
    SELECT DISTINCT unnest(scopes || '{keys,contacts,work_orders,statistics:read,dead_letters}'::text[]) ORDER BY 1)
WHERE agent_id IS NOT NULL;
