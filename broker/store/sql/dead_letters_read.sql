-- The same, whoever is replaying them, and without holding them.
SELECT
\ir message_columns.sql
    , m.round, m.requirements, m.route IS NOT NULL AS chosen
FROM agent_messages AS m
WHERE m.id = ANY($1::uuid[]) AND m.created_at >= to_timestamp($2) AND m.created_at < to_timestamp($3)
    AND m.status IN ('failed', 'expired')
