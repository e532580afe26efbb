-- Let a key end at $2, unless it ends sooner.
UPDATE agent_keys SET expires_at = least(expires_at, $2) WHERE id = $1
