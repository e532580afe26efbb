-- The few agents that are deleted and whose rows are still there, found without a look at all the others.

INSERT INTO schema_migrations (version, name) VALUES (13, 'deleted_agents');

-- The keeper asks every second for orders whose requester or worker has left, beginning with those agents.
CREATE INDEX agents_deleted ON agents (id) WHERE deleted_at IS NOT NULL;
