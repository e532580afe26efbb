-- Who was chosen for message $1, created at $2, before the one who has it.
SELECT coalesce(route -> 'tried', '[]')::text FROM agent_messages WHERE id = $1 AND created_at = $2
