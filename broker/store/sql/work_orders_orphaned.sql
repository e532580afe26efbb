-- Up to $1 unfinished orders whose requester has left, or the agent they are directed to. Found from those
-- agents, which are few, keep their rows and have an index (migration 13): among all orders there is none for it.
SELECT DISTINCT orphan.id
FROM agents AS a
CROSS JOIN LATERAL (
    SELECT w.id FROM work_orders AS w
    WHERE w.requester_id = a.id AND w.status IN ('pending', 'accepted')
    UNION ALL
    SELECT w.id FROM work_orders AS w
    WHERE w.worker_id = a.id AND w.status IN ('pending', 'accepted') AND NOT w.is_open
) AS orphan
WHERE a.deleted_at IS NOT NULL
LIMIT $1
