-- An agent by its name.
SELECT
\ir agent_columns.sql
FROM agents
WHERE name = $1
