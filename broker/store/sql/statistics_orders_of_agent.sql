-- Work orders of agent $1 by role and status, from the indexes of its lists alone.
SELECT 'requester' AS role, status, count(*) AS orders FROM work_orders WHERE requester_id = $1 GROUP BY status
UNION ALL
SELECT 'worker', status, count(*) FROM work_orders WHERE worker_id = $1 GROUP BY status
