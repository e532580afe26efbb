-- The agent $1 answers $2; no row when it said exactly that before, or was never asked.
UPDATE contacts SET
    status = $3, rate_per_minute = $4, expires_at = $5, reason = $6, decided_at = $7
WHERE agent_id = $1 AND peer_id = $2
    AND (status, rate_per_minute, expires_at, reason) IS DISTINCT FROM ($3, $4, $5, $6)
RETURNING
\ir contact_columns.sql
