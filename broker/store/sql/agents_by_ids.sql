-- Those of some agents that there are.
SELECT
\ir agent_columns.sql
FROM agents
WHERE id = ANY($1::uuid[]) AND deleted_at IS NULL
