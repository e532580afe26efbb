-- Write whole messages and attempts: new rows go in, known ones are merged, attempts known already are left.
-- $1..$25 and $35: columns of messages, $26..$34: columns of attempts, as broker.store.columns packs them.
-- Returns what now stands in the rows with the ids $36, but for those to which it brought nothing new.
-- unnest stands in a select list because in FROM each column would first be copied into a store of its own
-- (measured: 20 % of the statement).
WITH messages AS (
    INSERT INTO agent_messages AS m (
        id, from_agent_id, to_agent_id, root_id, reply_to, created_at, expires_at, deliver_at, delivered_at,
        processed_at, next_attempt_at, placed_at, retry_count, priority, hop, round, status, message_type,
        conversation_id, mailbox_entry, status_reason, content, metadata, result, route, requirements
    )
    SELECT
        id, from_agent_id, to_agent_id, root_id, reply_to, to_timestamp(created_us::float8 / 1000000),
        to_timestamp(expires_us::float8 / 1000000), to_timestamp(deliver_us::float8 / 1000000),
        to_timestamp(delivered_ms::float8 / 1000), to_timestamp(processed_ms::float8 / 1000),
        to_timestamp(next_attempt_ms::float8 / 1000), to_timestamp(placed_ms::float8 / 1000),
        coalesce(retry_count, 0), priority, coalesce(hop, 0), coalesce(round, 0), status, message_type,
        conversation_id, mailbox_entry, status_reason, content::jsonb, metadata::jsonb, result::jsonb,
        route::jsonb, requirements::jsonb
    FROM (
        SELECT
            unnest(unpacked($1)::uuid[]) AS id, unnest(unpacked($2)::uuid[]) AS from_agent_id,
            unnest(unpacked($3)::uuid[]) AS to_agent_id, unnest(unpacked($4)::uuid[]) AS root_id,
            unnest(unpacked($5)::uuid[]) AS reply_to, unnest(unpacked($6)::int8[]) AS created_us,
            unnest(unpacked($7)::int8[]) AS expires_us, unnest(unpacked($8)::int8[]) AS deliver_us,
            unnest(unpacked($9)::int8[]) AS delivered_ms, unnest(unpacked($10)::int8[]) AS processed_ms,
            unnest(unpacked($11)::int8[]) AS next_attempt_ms, unnest(unpacked($12)::int8[]) AS placed_ms,
            unnest(unpacked($13)::int4[]) AS retry_count, unnest(unpacked($14)::int2[]) AS priority,
            unnest(unpacked($15)::int2[]) AS hop, unnest(unpacked($16)::int2[]) AS round,
            unnest(unpacked($17)) AS status, unnest(unpacked($18)) AS message_type,
            unnest(unpacked($19)) AS conversation_id, unnest(unpacked($20)) AS mailbox_entry,
            unnest(unpacked($21)) AS status_reason, unnest(unpacked($22)) AS content,
            unnest(unpacked($23)) AS metadata, unnest(unpacked($24)) AS result, unnest(unpacked($25)) AS route,
            unnest(unpacked($35)) AS requirements
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
    INSERT INTO message_delivery_log (
        message_id, round, attempt, status, response_code, response_body, error, duration_ms, attempted_at
    )
    SELECT
        message_id, coalesce(round, 0), attempt, status, response_code, response_body, error,
        coalesce(duration_ms, 0), to_timestamp(attempted_ms::float8 / 1000)
    FROM (
        SELECT
            unnest(unpacked($26)::uuid[]) AS message_id, unnest(unpacked($27)::int2[]) AS round,
            unnest(unpacked($28)::int4[]) AS attempt, unnest(unpacked($29)) AS status,
            unnest(unpacked($30)::int4[]) AS response_code, unnest(unpacked($31)) AS response_body,
            unnest(unpacked($32)) AS error, unnest(unpacked($33)::int4[]) AS duration_ms,
            unnest(unpacked($34)::int8[]) AS attempted_ms
    ) AS u
    ON CONFLICT DO NOTHING
)
SELECT * FROM messages WHERE id = ANY (unpacked($36)::uuid[])
