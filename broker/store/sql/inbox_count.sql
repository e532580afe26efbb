-- Messages of agent $1 in one of the statuses $2, counted up to $3.
SELECT count(*) FROM (
    SELECT FROM agent_messages
    WHERE to_agent_id = $1::uuid AND status = ANY($2::text[])
    LIMIT $3
) AS seen
