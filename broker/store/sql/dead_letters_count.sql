-- How many dead letters there are like that, of agent $1 as recipient or sender where it is given; $6 at most.
SELECT count(*)
FROM (
    SELECT FROM agent_messages AS m
    WHERE ($1::uuid IS NULL OR m.from_agent_id = $1 OR m.to_agent_id = $1) AND
\ir dead_letters_where.sql
    LIMIT $6
) AS found
