-- A new key.
INSERT INTO agent_keys (id, agent_id, scopes, hash, prefix, created_at, expires_at, revoked_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
