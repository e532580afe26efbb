-- Write whole messages and attempts: new rows go in, known ones are merged, attempts known already are left.
-- $1..$25: columns of messages, $26..$34: columns of attempts, as broker.store.columns packs them.
WITH messages AS (
    INSERT INTO agent_messages AS m (
        id, from_agent_id, to_agent_id, root_id, reply_to, created_at, expires_at, deliver_at, delivered_at,
        processed_at, next_attempt_at, placed_at, retry_count, priority, hop, round, status, message_type,
        conversation_id, mailbox_entry, status_reason, content, metadata, result, route
    )
    SELECT
        id, from_agent_id, to_agent_id, root_id, reply_to, to_timestamp(created_us::float8 / 1000000),
        to_timestamp(expires_us::float8 / 1000000), to_timestamp(deliver_us::float8 / 1000000),
        to_timestamp(delivered_ms::float8 / 1000), to_timestamp(processed_ms::float8 / 1000),
        to_timestamp(next_attempt_ms::float8 / 1000), to_timestamp(placed_ms::float8 / 1000),
        coalesce(retry_count, 0), priority, coalesce(hop, 0), coalesce(round, 0), status, message_type,
        conversation_id, mailbox_entry, status_reason, content::jsonb, metadata::jsonb, result::jsonb,
        route::jsonb
    FROM unnest(
        unpacked($1)::uuid[], unpacked($2)::uuid[], unpacked($3)::uuid[], unpacked($4)::uuid[],
        unpacked($5)::uuid[], unpacked($6)::int8[], unpacked($7)::int8[], unpacked($8)::int8[],
        unpacked($9)::int8[], unpacked($10)::int8[], unpacked($11)::int8[], unpacked($12)::int8[],
        unpacked($13)::int4[], unpacked($14)::int2[], unpacked($15)::int2[], unpacked($16)::int2[],
        unpacked($17), unpacked($18), unpacked($19), unpacked($20), unpacked($21), unpacked($22),
        unpacked($23), unpacked($24), unpacked($25)
    ) AS u (
        id, from_agent_id, to_agent_id, root_id, reply_to, created_us, expires_us, deliver_us, delivered_ms,
        processed_ms, next_attempt_ms, placed_ms, retry_count, priority, hop, round, status, message_type,
        conversation_id, mailbox_entry, status_reason, content, metadata, result, route
    )
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
)
INSERT INTO message_delivery_log (
    message_id, round, attempt, status, response_code, response_body, error, duration_ms, attempted_at
)
SELECT
    message_id, coalesce(round, 0), attempt, status, response_code, response_body, error,
    coalesce(duration_ms, 0), to_timestamp(attempted_ms::float8 / 1000)
FROM unnest(
    unpacked($26)::uuid[], unpacked($27)::int2[], unpacked($28)::int4[], unpacked($29),
    unpacked($30)::int4[], unpacked($31), unpacked($32), unpacked($33)::int4[], unpacked($34)::int8[]
) AS u (
    message_id, round, attempt, status, response_code, response_body, error, duration_ms, attempted_ms
)
ON CONFLICT DO NOTHING
