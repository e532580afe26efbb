-- Count one more event of order $1, whose latest was $2.
UPDATE work_orders SET last_event = last_event + 1 WHERE id = $1 AND last_event = $2
