-- How many dead letters there are like that, whoever's; $6 at most.
SELECT count(*)
FROM (
    SELECT FROM agent_messages AS m
    WHERE $1::uuid IS NULL AND
\ir dead_letters_where.sql
    LIMIT $6
) AS found
