-- An agent by its id.
SELECT
\ir agent_columns.sql
FROM agents
WHERE id = $1 AND deleted_at IS NULL
