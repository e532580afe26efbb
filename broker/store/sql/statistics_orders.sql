-- Work orders of the deployment by status: every one there ever was.
SELECT status, sum(orders)::bigint AS orders
FROM (SELECT status, orders FROM statistics_orders UNION ALL SELECT status, orders FROM statistics_order_deltas) AS o
GROUP BY status
HAVING sum(orders) <> 0
