-- Up to $1 unfinished orders whose requester has left, or the agent they are directed to.
SELECT w.id
FROM work_orders AS w
LEFT JOIN agents AS requester ON requester.id = w.requester_id AND requester.deleted_at IS NULL
LEFT JOIN agents AS worker ON worker.id = w.worker_id AND worker.deleted_at IS NULL
WHERE w.status IN ('pending', 'accepted') AND (requester.id IS NULL OR NOT w.is_open AND worker.id IS NULL)
LIMIT $1
