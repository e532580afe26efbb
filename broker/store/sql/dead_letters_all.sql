-- A page of dead letters, newest first: made since $2, with reason $3, before the position $4, $5; $6 of them; from $7,
-- to $8, of type $9.
SELECT
\ir message_columns.sql
    , m.round
FROM agent_messages AS m
WHERE $1::uuid IS NULL AND
\ir dead_letters_where.sql
ORDER BY m.created_at DESC, m.id DESC
LIMIT $6
