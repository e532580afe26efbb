-- Agents, messages, delivery attempts, quarantine.
--
-- `agent-broker migrate` applies this, or: psql --single-transaction -v ON_ERROR_STOP=1 -f 0001_core.sql
--
-- The two tables of the hot path carry no foreign keys and no checks: the recorder writes thousands of rows a
-- second, and what it writes has been checked when it came in. Both are cut into UTC days, so that retention is
-- dropping a table. There is no default partition: rows in it would make every new partition scan it under a
-- lock, and retention would miss them.

CREATE TABLE IF NOT EXISTS schema_migrations (
    version integer PRIMARY KEY,
    name text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now(),
    checksum text
);
COMMENT ON COLUMN schema_migrations.checksum IS 'SHA-256 of the file; null while only psql has run it';

INSERT INTO schema_migrations (version, name) VALUES (1, 'core');

-- --- agents ------------------------------------------------------------------------------------------------

CREATE TABLE agents (
    id uuid PRIMARY KEY,
    name text COLLATE "C" NOT NULL UNIQUE,
    type text NOT NULL,
    endpoint text,
    capabilities text[] NOT NULL DEFAULT '{}',
    status text COLLATE "C" NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'paused', 'disabled')),
    max_concurrent_jobs integer NOT NULL CHECK (max_concurrent_jobs > 0),
    concurrency integer NOT NULL CHECK (concurrency > 0),
    accepts text[],
    allow_from text[],
    ordered boolean NOT NULL DEFAULT false,
    retry_schedule text COLLATE "C" NOT NULL DEFAULT 'agent' CHECK (retry_schedule IN ('agent', 'webhook')),
    signing_secret text NOT NULL DEFAULT '',
    heartbeat_at timestamptz,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL
) WITH (fillfactor = 80); -- heartbeats touch no indexed column: with room on the page they stay in place

COMMENT ON COLUMN agents.endpoint IS 'null: the agent pulls';
COMMENT ON COLUMN agents.accepts IS 'message types; null: all';
COMMENT ON COLUMN agents.allow_from IS 'senders; null: all';

CREATE INDEX agents_capabilities ON agents USING gin (capabilities);

CREATE TABLE agent_keys (
    id text COLLATE "C" PRIMARY KEY,
    agent_id uuid REFERENCES agents (id) ON DELETE CASCADE,
    scopes text[] NOT NULL,
    hash bytea NOT NULL,
    prefix text NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz,
    revoked_at timestamptz,
    last_used_at timestamptz
);
COMMENT ON COLUMN agent_keys.agent_id IS 'null: an operator''s key';

CREATE INDEX agent_keys_agent ON agent_keys (agent_id);

-- --- messages ----------------------------------------------------------------------------------------------

CREATE TABLE agent_messages (
    id uuid NOT NULL,
    from_agent_id uuid,
    to_agent_id uuid,
    root_id uuid,
    reply_to uuid,
    created_at timestamptz NOT NULL,
    delivered_at timestamptz,
    processed_at timestamptz,
    expires_at timestamptz,
    deliver_at timestamptz,
    next_attempt_at timestamptz,
    placed_at timestamptz,
    retry_count integer NOT NULL DEFAULT 0,
    priority smallint NOT NULL,
    hop smallint NOT NULL DEFAULT 0,
    round smallint NOT NULL DEFAULT 0,
    status text COLLATE "C" NOT NULL,
    message_type text COLLATE "C" NOT NULL,
    conversation_id text COLLATE "C",
    mailbox_entry text COLLATE "C",
    status_reason text,
    content jsonb NOT NULL,
    metadata jsonb NOT NULL,
    result jsonb,
    route jsonb,
    PRIMARY KEY (id, created_at)
) PARTITION BY RANGE (created_at);

COMMENT ON COLUMN agent_messages.round IS 'replays of a dead letter so far; a later round overrides an earlier one';
COMMENT ON COLUMN agent_messages.root_id IS 'what this message answers goes back to; null: itself';
COMMENT ON COLUMN agent_messages.placed_at IS 'when it was put into the mailbox to_agent_id and mailbox_entry name';
COMMENT ON COLUMN agent_messages.retry_count IS 'attempts of this round that have failed';
COMMENT ON COLUMN agent_messages.route IS 'why this agent: the explanation of a choice by capability';

-- An inbox, and an agent's messages by status, in the order they are shown.
CREATE INDEX agent_messages_inbox ON agent_messages (to_agent_id, status, priority, created_at);
CREATE INDEX agent_messages_sender ON agent_messages (from_agent_id, priority, created_at)
    WHERE from_agent_id IS NOT NULL;
CREATE INDEX agent_messages_conversation ON agent_messages (conversation_id, priority, created_at)
    WHERE conversation_id IS NOT NULL;

CREATE TABLE message_delivery_log (
    message_id uuid NOT NULL,
    attempted_at timestamptz NOT NULL,
    attempt integer NOT NULL,
    duration_ms integer NOT NULL,
    response_code integer,
    round smallint NOT NULL DEFAULT 0,
    status text COLLATE "C" NOT NULL,
    response_body text,
    error text,
    PRIMARY KEY (message_id, round, attempt, attempted_at)
) PARTITION BY RANGE (attempted_at);

-- How far a status is: the recorder never lowers it within a round. `broker.core.lifecycle.rank` is the same.
CREATE FUNCTION message_rank(status text) RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE status WHEN 'pending' THEN 0 WHEN 'delivered' THEN 1 ELSE 2 END;

-- The inverse of broker.store.columns: a column of a batch travels as one text, because the server unpacks it
-- as fast as an array, and packing it costs the recorder a fifth of what the driver takes for one.
CREATE FUNCTION unpacked(packed text) RETURNS text[]
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN (string_to_array(packed, E'\x1e', E'\x1f'))[2:];

-- --- quarantine --------------------------------------------------------------------------------------------

-- What could not be read or stored, with its bytes. An entry of a stream is kept once, however often replayed.
CREATE TABLE quarantine (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL,
    shard integer NOT NULL,
    stream text COLLATE "C" NOT NULL,
    entry text COLLATE "C" NOT NULL,
    reason text NOT NULL,
    detail text,
    raw bytea NOT NULL,
    UNIQUE (shard, stream, entry)
);

-- --- partitions --------------------------------------------------------------------------------------------

-- Make one day's partition of one table; false if it was there. The table is made beside its parent and then
-- attached: CREATE TABLE .. PARTITION OF would lock the parent against the recorder.
CREATE FUNCTION ensure_partition(parent text, day date) RETURNS boolean
    LANGUAGE plpgsql AS $$
DECLARE
    partition text := format('%s_p%s', parent, to_char(day, 'YYYYMMDD'));
BEGIN
    IF EXISTS (SELECT FROM pg_inherits WHERE inhrelid = to_regclass(quote_ident(partition))) THEN
        RETURN false;
    END IF;
    EXECUTE format(
        -- Rows are inserted, some touched once or twice, then dropped with the table: vacuuming on inserts
        -- only keeps the visibility map fresh and may wait.
        'CREATE TABLE %I (LIKE %I INCLUDING ALL) WITH (fillfactor = 90,'
        ' autovacuum_vacuum_insert_threshold = 500000, autovacuum_vacuum_insert_scale_factor = 1.0,'
        ' autovacuum_analyze_threshold = 50000, autovacuum_analyze_scale_factor = 0.5)',
        partition, parent);
    EXECUTE format(
        'ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', parent, partition,
        day::timestamp AT TIME ZONE 'UTC', (day + 1)::timestamp AT TIME ZONE 'UTC');
    RETURN true;
END $$;

-- Make the partitions of `days` UTC days beginning with `from_day`; return how many tables that took.
CREATE FUNCTION ensure_partitions(from_day date, days integer) RETURNS integer
    LANGUAGE plpgsql AS $$
DECLARE
    made integer;
BEGIN
    -- One at a time: two that both find a partition missing would collide.
    PERFORM pg_advisory_xact_lock(hashtext('agent_broker.partitions'));
    SELECT count(*) FILTER (WHERE ensure_partition(parent, from_day + ahead))
    INTO made
    FROM generate_series(0, days - 1) AS ahead,
        unnest(ARRAY['agent_messages', 'message_delivery_log']) AS parent;
    RETURN made;
END $$;

-- Yesterday too: messages of the last minutes before midnight are recorded after it.
SELECT ensure_partitions((now() AT TIME ZONE 'UTC')::date - 1, 9);
