-- An agent by its name.
SELECT
\ir agent_columns.sql
FROM agents
WHERE name = $1 AND deleted_at IS NULL
