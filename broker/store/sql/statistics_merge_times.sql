-- The same for delivery times.
WITH first AS (
    SELECT min(day) AS day FROM statistics_totals
    WHERE agent_id = '00000000-0000-0000-0000-000000000000' AND side = 'all'
),
gone AS (
    DELETE FROM statistics_times
    WHERE ctid = ANY (ARRAY(
        SELECT t.ctid
        FROM statistics_times AS t, first
        WHERE t.day < $1 AND t.day > first.day
            AND to_regclass('agent_messages_p' || to_char(t.day, 'YYYYMMDD')) IS NULL
        LIMIT $2))
    RETURNING *
),
changed_deliveries AS (
    SELECT
        g.agent_id, g.side, first.day, u.bucket, sum(u.messages)::bigint AS messages,
        sum(u.total_ms)::bigint AS total_ms
    FROM gone AS g
    CROSS JOIN LATERAL unnest(g.buckets, g.messages, g.total_ms) AS u (bucket, messages, total_ms)
    CROSS JOIN first
    GROUP BY g.agent_id, g.side, first.day, u.bucket
),
merged AS (
\ir statistics_add_times.sql
)
SELECT count(*) FROM gone
