-- Delete up to $2 orders that ended before $1, with all that belongs to them; return how many.
WITH old AS (
    SELECT id FROM work_orders WHERE finished_at < $1 ORDER BY finished_at LIMIT $2 FOR UPDATE SKIP LOCKED
), gone AS (
    DELETE FROM work_orders WHERE id IN (SELECT id FROM old) RETURNING id
)
SELECT count(*) FROM gone
