-- The history of order $1. (Names one by one: joined, every agent would be read for them.)
SELECT
    e.seq, e.at, e.actor_id, (SELECT name FROM agents WHERE id = e.actor_id) AS actor_name, e.action, e.by_party,
    e.from_status, e.to_status, e.detail
FROM work_order_events AS e
WHERE e.order_id = $1
ORDER BY e.seq
