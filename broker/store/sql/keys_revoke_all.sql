-- Revoke every key of an agent that works; return their ids.
UPDATE agent_keys SET revoked_at = $2
WHERE agent_id = $1 AND (revoked_at IS NULL OR revoked_at > $2) AND (expires_at IS NULL OR expires_at > $2)
RETURNING id
