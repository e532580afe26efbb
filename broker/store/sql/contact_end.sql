-- The agent $1 ends what there is between it and $2. A refusal by $2 stays: it is not for $1 to take back.
DELETE FROM contacts
WHERE (agent_id = $1 AND peer_id = $2) OR (agent_id = $2 AND peer_id = $1 AND status <> 'declined')
RETURNING agent_id
