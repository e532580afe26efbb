    id, agent_id, scopes, hash, prefix, created_at, expires_at, revoked_at, last_used_at
