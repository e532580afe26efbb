-- The keys of an agent that work, the newest first.
SELECT
\ir key_columns.sql
FROM agent_keys
WHERE agent_id = $1 AND (revoked_at IS NULL OR revoked_at > $2) AND (expires_at IS NULL OR expires_at > $2)
ORDER BY created_at DESC, id
