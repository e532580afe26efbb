-- A key by its id.
SELECT
\ir key_columns.sql
FROM agent_keys
WHERE id = $1
