-- Which of the messages $1, made between $2 and $3 (seconds), are recorded.
SELECT id FROM agent_messages
WHERE id = ANY($1::uuid[]) AND created_at >= to_timestamp($2) AND created_at < to_timestamp($3)
