-- The same of sender $7, and where $1 is given of that agent only, as recipient or sender.
SELECT count(*)
FROM (
    SELECT FROM agent_messages AS m
    WHERE m.from_agent_id = $7 AND ($1::uuid IS NULL OR $1 IN (m.from_agent_id, m.to_agent_id)) AND
\ir dead_letters_where.sql
    LIMIT $6
) AS found
