-- How much waits for agent $1 at $2, counted up to $3.
SELECT count(*) FROM (
    SELECT FROM agent_messages
    WHERE to_agent_id = $1::uuid AND status = 'pending' AND (expires_at IS NULL OR expires_at > $2::timestamptz)
    LIMIT $3
) AS waiting
