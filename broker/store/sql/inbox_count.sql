-- Messages of agent $1 in one of the statuses $2: how many of the first $3 are of type $4 (null: of any type), and
-- how many were looked at.
SELECT count(*) FILTER (WHERE $4::text IS NULL OR seen.message_type = $4) AS total, count(*) AS looked_at
FROM (
    SELECT message_type FROM agent_messages
    WHERE to_agent_id = $1::uuid AND status = ANY($2::text[])
    LIMIT $3
) AS seen
