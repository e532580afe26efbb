-- Take up to $1 messages that are due; nobody else gets them for $2 ms.
UPDATE outbox SET due_at = clock_timestamp() + $2::float8 * interval '1 millisecond'
WHERE id IN (
    SELECT id FROM outbox WHERE due_at <= now() ORDER BY due_at LIMIT $1 FOR UPDATE SKIP LOCKED
)
RETURNING id, envelope, (extract(epoch FROM clock_timestamp() - added_at) * 1000)::bigint AS age_ms
