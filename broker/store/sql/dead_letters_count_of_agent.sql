-- The same of agent $1, as recipient or sender: two indexes, each read no further than it has to be.
SELECT count(*)
FROM (
    (SELECT 1 FROM agent_messages AS m WHERE m.to_agent_id = $1 AND
\ir dead_letters_where.sql
    LIMIT $6)
    UNION ALL
    (SELECT 1 FROM agent_messages AS m WHERE m.from_agent_id = $1 AND m.to_agent_id IS DISTINCT FROM $1 AND
\ir dead_letters_where.sql
    LIMIT $6)
    LIMIT $6
) AS found
