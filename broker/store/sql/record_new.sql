-- Write messages that were finished at their first attempt, what statistics note of them (migration 5), and
-- attempts, straight into the partitions of a day: of messages {messages}, of attempts {attempts}. All of it is
-- refused where anything is known already.
-- $1..$38: as broker.store.packing.shared packs them.
-- A partition's own statement starts at half the price of the whole table's: no row is looked for before it
-- goes in, none is routed, no trigger fires (measured).
WITH given AS MATERIALIZED (
    SELECT unpacked($1)::uuid[] AS ids
), messages AS (
    INSERT INTO {messages} (
\ir record_message_names.sql
    )
    SELECT
\ir record_message_values.sql
    FROM (
        SELECT
\ir record_message_columns.sql
    ) AS u
    RETURNING
        to_agent_id, from_agent_id, message_type, status, created_at, deliver_at, delivered_at, processed_at
), attempts AS (
\ir record_attempts.sql
)
INSERT INTO statistics_deltas (
    sign, messages, to_agents, from_agents, types, statuses, reasons, created, started, delivered, processed)
SELECT
    1, count(*), array_agg(to_agent_id), array_agg(from_agent_id), array_agg(message_type), array_agg(status),
    array_agg(NULL::text), array_agg(created_at), array_agg(greatest(created_at, deliver_at)),
    array_agg(delivered_at), array_agg(processed_at)
FROM messages
