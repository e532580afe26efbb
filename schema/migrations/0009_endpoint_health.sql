-- How endpoints are doing: disabled ones, failing ones, and how fast each may be pushed to.

INSERT INTO schema_migrations (version, name) VALUES (9, 'endpoint_health');

ALTER TABLE agents
    ADD COLUMN endpoint_since timestamptz,
    ADD COLUMN endpoint_disabled_at timestamptz,
    ADD COLUMN endpoint_disabled_reason text COLLATE "C" CHECK (endpoint_disabled_reason IN ('gone', 'failing')),
    ADD COLUMN endpoint_failing_since timestamptz,
    ADD COLUMN endpoint_warned smallint NOT NULL DEFAULT 0,
    ADD COLUMN max_pushes_per_second integer CHECK (max_pushes_per_second > 0),
    ALTER COLUMN concurrency DROP NOT NULL;

COMMENT ON COLUMN agents.endpoint_since IS 'when the endpoint was set, or enabled again: what is older says nothing';
COMMENT ON COLUMN agents.endpoint_disabled_at IS 'nothing is pushed since then, and what comes for it bounces';
COMMENT ON COLUMN agents.endpoint_failing_since IS 'every push has failed since then, and its owner has been warned';
COMMENT ON COLUMN agents.endpoint_warned IS 'how many warnings its owner has had about this failing';
COMMENT ON COLUMN agents.max_pushes_per_second IS 'null: as the deployment says';
COMMENT ON COLUMN agents.concurrency IS 'pushes under way at once; null: as the deployment says';

-- Nobody could choose it so far: all have what was the default, which is the deployment's to set.
UPDATE agents SET concurrency = NULL WHERE concurrency = 4;
