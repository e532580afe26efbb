-- How agents leave, and signing secrets that change without a gap.

INSERT INTO schema_migrations (version, name) VALUES (8, 'life_cycle_of_agents');

ALTER TABLE agents
    ADD COLUMN drains_until timestamptz,
    ADD COLUMN departure_look_at timestamptz,
    ADD COLUMN previous_secret text,
    ADD COLUMN previous_secret_until timestamptz;

COMMENT ON COLUMN agents.drains_until IS 'nothing new is taken; what waits is still delivered, until then at most';
COMMENT ON COLUMN agents.departure_look_at IS 'when the keeper looks next what is left of it; null: no need to';
COMMENT ON COLUMN agents.previous_secret IS 'pushes are signed with it as well until previous_secret_until';

-- The few that are leaving, in the order the keeper looks at them.
CREATE INDEX agents_departing ON agents (departure_look_at) WHERE departure_look_at IS NOT NULL;

-- Keys given out before this scope existed get it: it belongs to every agent.
UPDATE agent_keys
SET scopes = ARRAY(SELECT DISTINCT unnest(scopes || '{agents:update}'::text[]) ORDER BY 1)
WHERE agent_id IS NOT NULL;
