-- Work order $1 to be changed, locked until the transaction ends; else as work_order_get.sql.
SELECT
\ir work_order_columns.sql
    , offer.order_id IS NOT NULL AS offered, offer.declined_at IS NOT NULL AS declined,
    clock_timestamp() AS now
FROM work_orders AS w
LEFT JOIN work_order_offers AS offer ON offer.order_id = w.id AND offer.agent_id = $2
WHERE w.id = $1
FOR UPDATE OF w
