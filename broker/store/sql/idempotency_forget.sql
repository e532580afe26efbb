-- Delete at most $2 claims made before $1; return how many.
WITH gone AS (
    DELETE FROM idempotency_keys
    WHERE key = ANY (ARRAY(SELECT key FROM idempotency_keys WHERE claimed_at < $1 LIMIT $2))
        AND claimed_at < $1
    RETURNING 1
)
SELECT count(*) FROM gone
