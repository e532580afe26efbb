-- Lock the windows of the senders $1, which are in order, so that two that need the same ones wait for each other.
INSERT INTO bounce_windows AS w (agent_id)
SELECT id FROM unnest($1::uuid[]) AS u (id)
ON CONFLICT (agent_id) DO UPDATE SET told = w.told
RETURNING w.agent_id, w.told, w.held, w.reasons
