-- Merge at most $2 sums of days before $1 whose messages have been dropped into the first day; return how many.
-- What was still pending then waits no more: nobody can tell what became of it.
WITH first AS (
    SELECT min(day) AS day FROM statistics_totals
    WHERE agent_id = '00000000-0000-0000-0000-000000000000' AND side = 'all'
),
gone AS (
    DELETE FROM statistics_totals
    WHERE ctid = ANY (ARRAY(
        SELECT t.ctid
        FROM statistics_totals AS t, first
        WHERE t.day < $1 AND (t.day > first.day OR t.status = 'pending')
            AND to_regclass('agent_messages_p' || to_char(t.day, 'YYYYMMDD')) IS NULL
        LIMIT $2))
    RETURNING *
),
merged AS (
    INSERT INTO statistics_totals AS t (agent_id, side, day, status, message_type, reason, messages)
    SELECT agent_id, side, first.day, status, message_type, reason, sum(messages)
    FROM gone, first
    WHERE status <> 'pending'
    GROUP BY agent_id, side, first.day, status, message_type, reason
    ON CONFLICT (agent_id, side, day, status, message_type, reason)
    DO UPDATE SET messages = t.messages + excluded.messages
)
SELECT count(*) FROM gone
