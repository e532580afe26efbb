-- Replies to message $1 recorded since day $2 (seconds), oldest first. A bounce answers nothing.
SELECT
\ir message_columns.sql
FROM agent_messages AS m
WHERE m.reply_to = $1::uuid AND m.created_at >= to_timestamp($2)
    AND NOT m.metadata @> '{"automatic": true}'
ORDER BY m.created_at, m.id
LIMIT $3
