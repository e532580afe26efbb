-- Order $1 was looked at for agents to offer it to; $2: when to look again.
UPDATE work_orders SET offer_at = $2 WHERE id = $1
