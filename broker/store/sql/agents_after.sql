-- The next $2 agents behind the id $1.
SELECT
\ir agent_columns.sql
FROM agents
WHERE id > $1 AND deleted_at IS NULL
ORDER BY id
LIMIT $2
