-- The history of order $1.
SELECT e.seq, e.at, e.actor_id, actor.name AS actor_name, e.action, e.by_party, e.from_status, e.to_status, e.detail
FROM work_order_events AS e
LEFT JOIN agents AS actor ON actor.id = e.actor_id
WHERE e.order_id = $1
ORDER BY e.seq
