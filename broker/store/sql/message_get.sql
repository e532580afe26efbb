-- A message by its id $1, created between $2 and $3 (seconds).
SELECT
\ir message_columns.sql
    , m.round, m.requirements
FROM agent_messages AS m
WHERE m.id = $1 AND m.created_at >= to_timestamp($2) AND m.created_at < to_timestamp($3)
