-- The same for delivery times.
WITH first AS (
    SELECT min(day) AS day FROM statistics_totals
    WHERE agent_id = '00000000-0000-0000-0000-000000000000' AND side = 'all'
),
gone AS (
    DELETE FROM statistics_deliveries
    WHERE ctid = ANY (ARRAY(
        SELECT t.ctid
        FROM statistics_deliveries AS t, first
        WHERE t.day < $1 AND t.day > first.day
            AND to_regclass('agent_messages_p' || to_char(t.day, 'YYYYMMDD')) IS NULL
        LIMIT $2))
    RETURNING *
),
merged AS (
    INSERT INTO statistics_deliveries AS t (agent_id, side, day, bucket, messages, total_ms)
    SELECT agent_id, side, first.day, bucket, sum(messages), sum(total_ms)
    FROM gone, first
    GROUP BY agent_id, side, first.day, bucket
    ON CONFLICT (agent_id, side, day, bucket)
    DO UPDATE SET messages = t.messages + excluded.messages, total_ms = t.total_ms + excluded.total_ms
)
SELECT count(*) FROM gone
