-- Delivery times: a row for each agent, side and day, with all its buckets in it.

INSERT INTO schema_migrations (version, name) VALUES (14, 'delivery_times');

-- Takes the place of statistics_deliveries, which has a row for each bucket: a few dozen messages to an agent fall
-- into some twenty of these, and finding and writing the rows was over half of what folding cost. What stands there
-- is counted with this and moved here by the keeper, a batch at a time; a release that does not know
-- this table goes on writing there, and that is moved as well.
CREATE TABLE statistics_times (
    agent_id uuid NOT NULL,
    side text COLLATE "C" NOT NULL,
    day date NOT NULL,
    buckets smallint[] NOT NULL,
    messages bigint[] NOT NULL,
    total_ms bigint[] NOT NULL,
    PRIMARY KEY (agent_id, side, day)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.1);
COMMENT ON COLUMN statistics_times.buckets IS 'each once, in no order, see statistics_bucket; the other arrays go with it';

-- In every fold all rows of agents with traffic change, whole pages of them: half a page is left free, so that they
-- stay in it (a fifth of them did not).
ALTER TABLE statistics_totals SET (fillfactor = 50);
ALTER TABLE statistics_minutes SET (fillfactor = 50);
