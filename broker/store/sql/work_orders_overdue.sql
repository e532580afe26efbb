-- Up to $1 orders whose deadline has passed.
SELECT id FROM work_orders
WHERE status IN ('pending', 'accepted') AND deadline_at <= now()
ORDER BY deadline_at
LIMIT $1
