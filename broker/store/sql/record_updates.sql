-- Merge what happened into messages written before; return the ids of those there were.
-- $1..$13: columns as broker.store.columns packs them; $14, $15: seconds between which the messages were made.
UPDATE agent_messages AS m SET
\ir merge_set.sql
FROM (
    SELECT
        id, to_agent_id, mailbox_entry, status, status_reason,
        coalesce(retry_count, 0) AS retry_count,
        coalesce(round, 0) AS round,
        to_timestamp(delivered_ms::float8 / 1000) AS delivered_at,
        to_timestamp(processed_ms::float8 / 1000) AS processed_at,
        to_timestamp(next_attempt_ms::float8 / 1000) AS next_attempt_at,
        to_timestamp(placed_ms::float8 / 1000) AS placed_at,
        result::jsonb AS result,
        route::jsonb AS route
    FROM unnest(
        unpacked($1)::uuid[], unpacked($2)::uuid[], unpacked($3)::int8[], unpacked($4)::int8[],
        unpacked($5)::int8[], unpacked($6)::int8[], unpacked($7)::int4[], unpacked($8)::int2[],
        unpacked($9), unpacked($10), unpacked($11), unpacked($12), unpacked($13)
    ) AS u (
        id, to_agent_id, delivered_ms, processed_ms, next_attempt_ms, placed_ms, retry_count, round, status,
        mailbox_entry, status_reason, result, route
    )
) AS excluded
WHERE m.id = excluded.id AND m.created_at >= to_timestamp($14) AND m.created_at < to_timestamp($15)
RETURNING m.id
