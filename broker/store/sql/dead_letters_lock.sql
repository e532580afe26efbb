-- Those of the messages $1, created between $2 and $3 (seconds), that are dead, with what sending them again
-- takes. Who else is replaying one has it locked: it is left out.
SELECT
\ir message_columns.sql
    , m.round, m.requirements, m.route IS NOT NULL AS chosen
FROM agent_messages AS m
WHERE m.id = ANY($1::uuid[]) AND m.created_at >= to_timestamp($2) AND m.created_at < to_timestamp($3)
    AND m.status IN ('failed', 'expired')
FOR UPDATE SKIP LOCKED
