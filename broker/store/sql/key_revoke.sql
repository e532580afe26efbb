-- Revoke a key of an agent; one that is revoked stays so since when it was.
UPDATE agent_keys SET revoked_at = least(revoked_at, $3)
WHERE id = $1 AND agent_id = $2
RETURNING
\ir key_columns.sql
