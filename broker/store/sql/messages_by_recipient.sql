-- A page of an inbox. Each status is a range of the index in the order wanted, so each gives its first rows.
SELECT
\ir message_columns.sql
FROM unnest($4::text[]) AS wanted (status)
CROSS JOIN LATERAL (
    SELECT * FROM agent_messages
    WHERE to_agent_id = $1::uuid AND status = wanted.status
        AND ($2::uuid IS NULL OR from_agent_id = $2)
        AND ($3::text IS NULL OR conversation_id = $3)
        AND ($5::text IS NULL OR message_type = $5)
        AND (priority, created_at, id) > ($6::smallint, $7::timestamptz, $8::uuid)
    ORDER BY priority, created_at, id
    LIMIT $9
) AS m
ORDER BY m.priority, m.created_at, m.id
LIMIT $9
