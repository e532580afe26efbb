-- Write whole messages and attempts: new rows go in, known ones are merged, attempts known already are left.
-- $1..$38: as broker.store.packing.shared packs them, $39..$43: further columns of messages.
-- Returns what now stands in the rows with the ids $44, but for those to which it brought nothing new.
WITH given AS MATERIALIZED (
    SELECT unpacked($1)::uuid[] AS ids
), messages AS (
    INSERT INTO agent_messages AS m (
\ir record_message_names.sql
        , next_attempt_at, retry_count, round, mailbox_entry, status_reason
    )
    SELECT
\ir record_message_values.sql
        , to_timestamp(next_attempt_ms::float8 / 1000), coalesce(retry_count, 0), coalesce(round, 0),
        mailbox_entry, status_reason
    FROM (
        SELECT
\ir record_message_columns.sql
            , unnest(unpacked($39)::int8[]) AS next_attempt_ms, unnest(unpacked($40)::int4[]) AS retry_count,
            unnest(unpacked($41)::int2[]) AS round, unnest(unpacked($42)) AS mailbox_entry,
            unnest(unpacked($43)) AS status_reason
    ) AS u
    ON CONFLICT (id, created_at) DO UPDATE SET
\ir merge_set.sql
    -- A replay that brings nothing new writes nothing.
    WHERE excluded.round > m.round
        OR excluded.placed_at > coalesce(m.placed_at, '-infinity')
        OR excluded.round = m.round AND (
            message_rank(excluded.status) > message_rank(m.status)
            OR excluded.retry_count > m.retry_count
            OR excluded.delivered_at < coalesce(m.delivered_at, 'infinity')
            OR excluded.processed_at < coalesce(m.processed_at, 'infinity')
        )
    RETURNING
        id, status, to_agent_id, retry_count, delivered_at, processed_at, next_attempt_at, status_reason, result
), attempts AS (
\ir record_attempts.sql
    ON CONFLICT DO NOTHING
)
SELECT * FROM messages WHERE id = ANY (unpacked($44)::uuid[])
