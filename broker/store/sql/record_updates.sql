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
    FROM (
        SELECT
            unnest(unpacked($1)::uuid[]) AS id, unnest(unpacked($2)::uuid[]) AS to_agent_id,
            unnest(unpacked($3)::int8[]) AS delivered_ms, unnest(unpacked($4)::int8[]) AS processed_ms,
            unnest(unpacked($5)::int8[]) AS next_attempt_ms, unnest(unpacked($6)::int8[]) AS placed_ms,
            unnest(unpacked($7)::int4[]) AS retry_count, unnest(unpacked($8)::int2[]) AS round,
            unnest(unpacked($9)) AS status, unnest(unpacked($10)) AS mailbox_entry,
            unnest(unpacked($11)) AS status_reason, unnest(unpacked($12)) AS result,
            unnest(unpacked($13)) AS route
    ) AS u
) AS excluded
WHERE m.id = excluded.id AND m.created_at >= to_timestamp($14) AND m.created_at < to_timestamp($15)
RETURNING m.id, m.created_at
