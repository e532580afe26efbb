-- A page of what waits for agent $1 at $2: behind the position $3, $4, $5, at most $6 rows, of type $7.
SELECT
\ir message_columns.sql
FROM agent_messages AS m
WHERE m.to_agent_id = $1::uuid AND m.status = 'pending' AND m.message_type = $7::text
    AND (m.expires_at IS NULL OR m.expires_at > $2::timestamptz)
    AND (m.priority, m.created_at, m.id) > ($3::smallint, $4::timestamptz, $5::uuid)
ORDER BY m.priority, m.created_at, m.id
LIMIT $6
