-- Agents that have all of some capabilities, $2 at most.
SELECT
\ir agent_columns.sql
FROM agents
WHERE capabilities @> $1::text[] AND deleted_at IS NULL
ORDER BY id
LIMIT $2
