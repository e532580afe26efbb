-- Something that happened to an order.
INSERT INTO work_order_events (order_id, seq, at, actor_id, action, by_party, from_status, to_status, detail)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9::text::jsonb)
