-- Rows of agents: heartbeats that stay in their page, and the few that are deleted found at once.

INSERT INTO schema_migrations (version, name) VALUES (13, 'rows_of_agents');

-- Every agent's heartbeat is stored once a minute. Where a page has no room for the new row, it goes to another
-- and into every index, of which that of the capabilities is dear, and all of them have to be vacuumed for it.
-- Half a page, because neighbours are often stored together.
ALTER TABLE agents SET (fillfactor = 50);

-- The keeper asks every second for orders whose requester or worker has left, beginning with those agents.
CREATE INDEX agents_deleted ON agents (id) WHERE deleted_at IS NOT NULL;
