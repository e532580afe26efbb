-- Keys by their ids.
SELECT
\ir key_columns.sql
FROM agent_keys
WHERE id = ANY($1::text[])
