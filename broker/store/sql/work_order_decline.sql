-- Agent $2 gives back its offer of order $1 at $3.
UPDATE work_order_offers SET declined_at = $3, stands = false WHERE order_id = $1 AND agent_id = $2
