-- Keep the reply (status $3, body $4, headers $5) to the claim of key $1 for id $2, unless there is one; return
-- the one there is now.
UPDATE idempotency_keys SET
    status = coalesce(status, $3),
    reply = CASE WHEN status IS NULL THEN $4 ELSE reply END,
    headers = CASE WHEN status IS NULL THEN $5::text::jsonb ELSE headers END
WHERE key = $1 AND target_id = $2
RETURNING key, body, target_id, status, reply, headers::text AS headers
