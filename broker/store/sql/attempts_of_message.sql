-- The attempts of message $1, none of which lies before $2 (seconds).
SELECT
    attempt, status, response_code, response_body, error, duration_ms, attempted_at, round,
    coalesce(agent_id, (
        SELECT m.to_agent_id FROM agent_messages AS m WHERE m.id = $1 AND m.created_at >= to_timestamp($2) LIMIT 1
    )) AS agent_id
FROM message_delivery_log
WHERE message_id = $1 AND attempted_at >= to_timestamp($2)
ORDER BY attempted_at, round, attempt
