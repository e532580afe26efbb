-- Delete at most $2 minutes before $1; return how many.
WITH gone AS (
    DELETE FROM statistics_minutes
    WHERE ctid = ANY (ARRAY(SELECT ctid FROM statistics_minutes WHERE minute < $1 LIMIT $2))
    RETURNING 1
)
SELECT count(*) FROM gone
