-- The keys of an agent, the newest first.
SELECT
\ir key_columns.sql
FROM agent_keys
WHERE agent_id = $1
ORDER BY created_at DESC, id
LIMIT $2
