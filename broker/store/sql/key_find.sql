-- A key by its id.
SELECT id, agent_id, scopes, hash, prefix, created_at, expires_at, revoked_at FROM agent_keys WHERE id = $1
