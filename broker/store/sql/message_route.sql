-- Why message $1, created between $2 and $3 (seconds), went to its agent.
SELECT route
FROM agent_messages
WHERE id = $1 AND created_at >= to_timestamp($2) AND created_at < to_timestamp($3)
