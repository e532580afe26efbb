-- Statistics: what changes in agent_messages, noted by the statement that changes it, and the sums of it.
--
-- Every number is a sum, over all messages, of what one row says of itself. A statement that inserts rows adds
-- what they say; one that changes rows takes back what they said and adds what they say now. So the sums are
-- exact whoever changes a row and however often the ledger is replayed: a replay that changes nothing notes
-- nothing. Rows that go with a dropped partition take nothing back: totals outlive the record.
--
-- Noting is on the hot path and groups nothing: the rows of a statement become one row of arrays (measured: a
-- tenth of the price of grouping them there). The keeper folds these into the sums; whoever reads in between
-- adds what is not folded yet.

INSERT INTO schema_migrations (version, name) VALUES (5, 'statistics');

CREATE TABLE statistics_deltas (
    noted_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    sign smallint NOT NULL,
    messages integer NOT NULL,
    to_agents uuid[] NOT NULL,
    from_agents uuid[] NOT NULL,
    types text[] NOT NULL,
    statuses text[] NOT NULL,
    reasons text[] NOT NULL,
    created timestamptz[] NOT NULL,
    started timestamptz[] NOT NULL,
    delivered timestamptz[] NOT NULL,
    processed timestamptz[] NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
-- Compressing what is read once, seconds later, does not pay.
ALTER TABLE statistics_deltas
    ALTER COLUMN to_agents SET STORAGE EXTERNAL,
    ALTER COLUMN from_agents SET STORAGE EXTERNAL,
    ALTER COLUMN types SET STORAGE EXTERNAL,
    ALTER COLUMN statuses SET STORAGE EXTERNAL,
    ALTER COLUMN reasons SET STORAGE EXTERNAL,
    ALTER COLUMN created SET STORAGE EXTERNAL,
    ALTER COLUMN started SET STORAGE EXTERNAL,
    ALTER COLUMN delivered SET STORAGE EXTERNAL,
    ALTER COLUMN processed SET STORAGE EXTERNAL;
COMMENT ON COLUMN statistics_deltas.sign IS '1: these rows are there now; -1: as they were they are there no more';
COMMENT ON COLUMN statistics_deltas.started IS 'when delivery could begin; null: not delivered, or replayed';

-- --- sums --------------------------------------------------------------------------------------------------

-- `agent_id` is the nil UUID and `side` 'all' for the whole deployment. `day`: when the message was created;
-- the first day also carries all days whose messages have been dropped.

CREATE TABLE statistics_totals (
    agent_id uuid NOT NULL,
    side text COLLATE "C" NOT NULL,
    day date NOT NULL,
    status text COLLATE "C" NOT NULL,
    message_type text COLLATE "C" NOT NULL,
    reason text COLLATE "C" NOT NULL,
    messages bigint NOT NULL,
    PRIMARY KEY (agent_id, side, day, status, message_type, reason)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.1);

CREATE TABLE statistics_deliveries (
    agent_id uuid NOT NULL,
    side text COLLATE "C" NOT NULL,
    day date NOT NULL,
    bucket smallint NOT NULL,
    messages bigint NOT NULL,
    total_ms bigint NOT NULL,
    PRIMARY KEY (agent_id, side, day, bucket)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.1);
COMMENT ON COLUMN statistics_deliveries.bucket IS 'of the delivery time, see statistics_bucket';

CREATE TABLE statistics_minutes (
    agent_id uuid NOT NULL,
    side text COLLATE "C" NOT NULL,
    minute timestamptz NOT NULL,
    accepted bigint NOT NULL,
    delivered bigint NOT NULL,
    processed bigint NOT NULL,
    PRIMARY KEY (agent_id, side, minute)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.1);
CREATE INDEX statistics_minutes_minute ON statistics_minutes (minute);

-- Types and reasons that have sums of their own. Agents make up both: beyond a number of them the rest counts
-- as 'other'. Nothing is ever taken out, so what a word counts as never changes.
CREATE TABLE statistics_words (
    kind text COLLATE "C" NOT NULL,
    word text COLLATE "C" NOT NULL,
    PRIMARY KEY (kind, word)
);

-- Delivery times in buckets 12 % wide (six per doubling): bucket b holds times from 2^(b/6) ms up to the next.
CREATE FUNCTION statistics_bucket(ms bigint) RETURNS smallint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN floor(ln(greatest(ms, 1)::float8) / ln(2::float8) * 6 + 1e-9)::smallint;

-- A reason as it is counted: a code as it is; sentences of agents are theirs alone.
CREATE FUNCTION statistics_reason(status text, reason text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE
        WHEN status NOT IN ('failed', 'expired') THEN ''
        WHEN reason ~ '^[a-z][a-z0-9_]{0,63}$' THEN reason
        ELSE 'other' END;

-- --- noting ------------------------------------------------------------------------------------------------

CREATE FUNCTION note_inserted_messages() RETURNS trigger
    LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO statistics_deltas (
        sign, messages, to_agents, from_agents, types, statuses, reasons, created, started, delivered,
        processed)
    SELECT
        1, count(*), array_agg(to_agent_id), array_agg(from_agent_id), array_agg(message_type), array_agg(status),
        array_agg(status_reason), array_agg(created_at),
        array_agg(CASE WHEN round = 0 AND delivered_at IS NOT NULL THEN greatest(created_at, deliver_at) END),
        array_agg(delivered_at), array_agg(processed_at)
    FROM new_rows
    HAVING count(*) > 0;
    RETURN NULL;
END $$;

-- Most updates are of single rows, and many (another attempt) change nothing that is counted.
CREATE FUNCTION note_updated_messages() RETURNS trigger
    LANGUAGE plpgsql AS $$
BEGIN
    -- It also fires for the recorder's INSERT .. ON CONFLICT, which seldom updates anything.
    IF NOT EXISTS (SELECT FROM new_rows) THEN
        RETURN NULL;
    END IF;
    INSERT INTO statistics_deltas (
        sign, messages, to_agents, from_agents, types, statuses, reasons, created, started, delivered,
        processed)
    SELECT
        u.sign, count(*), array_agg(u.to_agent_id), array_agg(n.from_agent_id), array_agg(n.message_type),
        array_agg(u.status), array_agg(u.status_reason), array_agg(n.created_at),
        array_agg(
            CASE WHEN u.round = 0 AND u.delivered_at IS NOT NULL THEN greatest(n.created_at, n.deliver_at) END),
        array_agg(u.delivered_at), array_agg(u.processed_at)
    FROM old_rows AS o
    JOIN new_rows AS n USING (id, created_at)
    CROSS JOIN LATERAL (VALUES
        (-1, o.to_agent_id, o.status, o.status_reason, o.round, o.delivered_at, o.processed_at),
        (1, n.to_agent_id, n.status, n.status_reason, n.round, n.delivered_at, n.processed_at)
    ) AS u (sign, to_agent_id, status, status_reason, round, delivered_at, processed_at)
    WHERE (o.to_agent_id, o.status, o.status_reason, o.round, o.delivered_at, o.processed_at)
        IS DISTINCT FROM (n.to_agent_id, n.status, n.status_reason, n.round, n.delivered_at, n.processed_at)
    GROUP BY u.sign;
    RETURN NULL;
END $$;

CREATE TRIGGER note_inserted AFTER INSERT ON agent_messages
    REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION note_inserted_messages();
CREATE TRIGGER note_updated AFTER UPDATE ON agent_messages
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION note_updated_messages();

-- What is there already. Writers wait for the end of this migration, so none is missed and none counted twice.
INSERT INTO statistics_deltas (
    sign, messages, to_agents, from_agents, types, statuses, reasons, created, started, delivered, processed)
SELECT
    1, count(*), array_agg(to_agent_id), array_agg(from_agent_id), array_agg(message_type), array_agg(status),
    array_agg(status_reason), array_agg(created_at),
    array_agg(CASE WHEN round = 0 AND delivered_at IS NOT NULL THEN greatest(created_at, deliver_at) END),
    array_agg(delivered_at), array_agg(processed_at)
FROM (
    SELECT
        row_number() OVER () / 1000 AS part, to_agent_id, from_agent_id, message_type, status, status_reason,
        created_at, deliver_at, delivered_at, processed_at, round
    FROM agent_messages
) AS m
GROUP BY part;

-- --- work orders -------------------------------------------------------------------------------------------

-- How many have each status, for the deployment; those of one agent are counted from its index. They change
-- seldom, so each change is a row of plain numbers. An order that is deleted stays counted.
CREATE TABLE statistics_order_deltas (
    status text COLLATE "C" NOT NULL,
    orders bigint NOT NULL
);
CREATE TABLE statistics_orders (
    status text COLLATE "C" PRIMARY KEY,
    orders bigint NOT NULL
);

CREATE FUNCTION note_inserted_orders() RETURNS trigger
    LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO statistics_order_deltas (status, orders) SELECT status, count(*) FROM new_rows GROUP BY status;
    RETURN NULL;
END $$;

CREATE FUNCTION note_updated_orders() RETURNS trigger
    LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO statistics_order_deltas (status, orders)
    SELECT status, sum(sign)
    FROM (SELECT status, -1 AS sign FROM old_rows UNION ALL SELECT status, 1 FROM new_rows) AS u
    GROUP BY status
    HAVING sum(sign) <> 0;
    RETURN NULL;
END $$;

CREATE TRIGGER note_inserted AFTER INSERT ON work_orders
    REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION note_inserted_orders();
CREATE TRIGGER note_updated AFTER UPDATE ON work_orders
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION note_updated_orders();

INSERT INTO statistics_order_deltas (status, orders) SELECT status, count(*) FROM work_orders GROUP BY status;
