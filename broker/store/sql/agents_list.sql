-- A page of agents behind the id $1, by status, type, all of some capabilities, last heard of since.
SELECT
\ir agent_columns.sql
FROM agents
WHERE id > $1 AND deleted_at IS NULL
    AND ($2::text IS NULL OR status = $2)
    AND ($3::text IS NULL OR type = $3)
    AND capabilities @> $4::text[]
    AND ($5::timestamptz IS NULL OR heartbeat_at >= $5)
ORDER BY id
LIMIT $6
