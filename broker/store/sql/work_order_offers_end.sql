-- No offer of order $1 stands any longer; return whose did.
UPDATE work_order_offers SET stands = false WHERE order_id = $1 AND stands RETURNING agent_id
