-- Move message $1, created between $2 and $3 (seconds), from one of the statuses $4 to $5 at $8 (ms).
UPDATE agent_messages AS m SET
    status = $5,
    result = coalesce($6::text::jsonb, m.result),
    status_reason = $7,
    next_attempt_at = NULL,
    delivered_at = CASE
        WHEN $5 IN ('delivered', 'processed')
        THEN coalesce(m.delivered_at, to_timestamp($8::float8 / 1000))
        ELSE m.delivered_at END,
    processed_at = CASE
        WHEN $5 = 'processed' THEN to_timestamp($8::float8 / 1000) ELSE m.processed_at END
WHERE m.id = $1 AND m.created_at >= to_timestamp($2) AND m.created_at < to_timestamp($3)
    AND m.status = ANY($4::text[])
RETURNING
\ir message_columns.sql
    , m.round, m.requirements
