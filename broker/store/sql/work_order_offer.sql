-- Offer order $1 to up to $4 agents that can take it, those heard of last first; return them.
-- $2 now, $3 the round (leases given so far), $5 how many it may be offered to in a round.
-- An agent gets an offer once a round, and none after it has declined.
-- When somebody was heard of last is up to two minutes old here (agents_heartbeats.sql): the order says who has
-- been silent for long, not who spoke last.
INSERT INTO work_order_offers (order_id, agent_id, offered_at, round)
SELECT w.id, a.id, $2, $3
FROM work_orders AS w
JOIN agents AS a ON a.capabilities @> w.capabilities
WHERE w.id = $1
    AND a.id <> w.requester_id
    AND a.status = 'active' AND a.deleted_at IS NULL AND a.accepts_work_orders
    AND (a.accepts IS NULL OR 'work_order' = ANY(a.accepts))
    AND (a.allow_from IS NULL OR w.requester_id::text = ANY(a.allow_from))
    AND (a.contact_policy = 'open' OR EXISTS (
        SELECT FROM contacts AS c
        WHERE (c.agent_id, c.peer_id) IN ((a.id, w.requester_id), (w.requester_id, a.id))
            AND c.status = 'accepted' AND (c.expires_at IS NULL OR c.expires_at > now())))
    AND NOT EXISTS (
        SELECT FROM work_order_offers AS o
        WHERE o.order_id = w.id AND o.agent_id = a.id AND (o.round >= $3 OR o.declined_at IS NOT NULL))
ORDER BY a.heartbeat_at DESC NULLS LAST, a.id
LIMIT least($4::bigint, greatest(0, $5::bigint - (
    SELECT count(*) FROM work_order_offers WHERE order_id = $1 AND round >= $3)))
ON CONFLICT (order_id, agent_id) DO UPDATE SET
    offered_at = excluded.offered_at, round = excluded.round, stands = true
RETURNING agent_id
