-- The claim of key $1.
SELECT key, body, target_id, status, reply, headers::text AS headers FROM idempotency_keys WHERE key = $1
