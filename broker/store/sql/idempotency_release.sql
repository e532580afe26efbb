-- Give up the claim of key $1 for id $2, unless it has its reply.
DELETE FROM idempotency_keys WHERE key = $1 AND target_id = $2 AND status IS NULL
