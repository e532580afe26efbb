-- The next open order to offer, locked; skips those that others have locked.
SELECT
\ir work_order_columns.sql
    , clock_timestamp() AS now
FROM work_orders AS w
WHERE w.is_open AND w.status IN ('pending', 'accepted') AND w.offer_at <= now()
ORDER BY w.offer_at
LIMIT 1
FOR UPDATE OF w SKIP LOCKED
