-- Delete keys that ended before $1, $2 at most; return how many.
WITH ended AS (
    SELECT id FROM agent_keys
    WHERE (revoked_at IS NOT NULL OR expires_at IS NOT NULL) AND least(revoked_at, expires_at) < $1
    ORDER BY least(revoked_at, expires_at)
    LIMIT $2
    FOR UPDATE SKIP LOCKED
), gone AS (
    DELETE FROM agent_keys USING ended WHERE agent_keys.id = ended.id RETURNING agent_keys.id
)
SELECT count(*) FROM gone
