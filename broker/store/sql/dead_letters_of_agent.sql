-- The same of agent $1, as recipient or sender: two indexes, each read in order.
SELECT *
FROM (
    (SELECT
\ir message_columns.sql
        , m.round
    FROM agent_messages AS m
    WHERE m.to_agent_id = $1 AND
\ir dead_letters_where.sql
    ORDER BY m.created_at DESC, m.id DESC
    LIMIT $6)
    UNION ALL
    (SELECT
\ir message_columns.sql
        , m.round
    FROM agent_messages AS m
    WHERE m.from_agent_id = $1 AND m.to_agent_id IS DISTINCT FROM $1 AND
\ir dead_letters_where.sql
    ORDER BY m.created_at DESC, m.id DESC
    LIMIT $6)
) AS both_sides
ORDER BY created_at DESC, id DESC
LIMIT $6
