-- Keep the reply (status $3, body $4, headers $5) to the claim of key $1 for id $2, unless there is one.
UPDATE idempotency_keys SET status = $3, reply = $4, headers = $5::text::jsonb
WHERE key = $1 AND target_id = $2 AND status IS NULL
RETURNING true
