-- Work order $1, the names of its sides, what agent $2 is offered of it, and the server's time.
SELECT
\ir work_order_columns.sql
    ,
\ir work_order_names.sql
    ,
    offer.order_id IS NOT NULL AS offered, offer.declined_at IS NOT NULL AS declined,
    clock_timestamp() AS now
FROM work_orders AS w
LEFT JOIN work_order_offers AS offer ON offer.order_id = w.id AND offer.agent_id = $2
WHERE w.id = $1
