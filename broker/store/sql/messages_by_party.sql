-- A page of what concerns one agent ($1) in a conversation: what it got and what it sent.
SELECT
\ir message_columns.sql
FROM agent_messages AS m
WHERE $2::uuid IS NULL
    AND m.conversation_id = $3::text
    AND (m.to_agent_id = $1::uuid OR m.from_agent_id = $1)
    AND m.status = ANY($4::text[])
    AND ($5::text IS NULL OR m.message_type = $5)
    AND (m.priority, m.created_at, m.id) > ($6::smallint, $7::timestamptz, $8::uuid)
ORDER BY m.priority, m.created_at, m.id
LIMIT $9
