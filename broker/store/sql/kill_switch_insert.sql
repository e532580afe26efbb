-- Switch something off, where fewer than $7 switches are set.
INSERT INTO kill_switches (id, agent_id, peer_id, root_id, reason, created_at)
SELECT $1, $2, $3, $4, $5, $6
WHERE (SELECT count(*) FROM kill_switches) < $7
RETURNING id
