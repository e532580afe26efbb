-- Replace an agent; its heartbeat only moves forward, its time of creation stays.
UPDATE agents SET
    name = $2, type = $3, endpoint = $4, capabilities = $5, status = $6, max_concurrent_jobs = $7,
    concurrency = $8, accepts = $9, allow_from = $10, ordered = $11, retry_schedule = $12, signing_secret = $13,
    status_message = $14, accepts_work_orders = $15, contact_policy = $16, deleted_at = $17,
    drains_until = $18, previous_secret = $19, previous_secret_until = $20,
    endpoint_since = $21, endpoint_disabled_reason = $22, endpoint_disabled_at = $23,
    endpoint_failing_since = $24, endpoint_warned = $25, max_pushes_per_second = $26,
    inbox_messages_max = $27, inbox_bytes_max = $28,
    heartbeat_at = greatest(heartbeat_at, $29), created_at = least(created_at, $30), updated_at = $31
WHERE id = $1
RETURNING id
