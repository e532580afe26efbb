-- An agent by its id, locked until the end of the transaction.
SELECT
\ir agent_columns.sql
FROM agents
WHERE id = $1 AND deleted_at IS NULL
FOR NO KEY UPDATE
