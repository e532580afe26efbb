-- Of the first $3 messages of agent $1 in one of the statuses $2: how many are of type $4, and how many there are.
SELECT count(*) FILTER (WHERE seen.message_type = $4::text) AS total, count(*) AS looked_at
FROM (
    SELECT message_type FROM agent_messages
    WHERE to_agent_id = $1::uuid AND status = ANY($2::text[])
    LIMIT $3
) AS seen
