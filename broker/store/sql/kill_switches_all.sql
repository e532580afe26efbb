-- Everything that is switched off.
SELECT id, agent_id, peer_id, root_id, reason, created_at FROM kill_switches ORDER BY created_at, id
