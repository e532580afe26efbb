-- The agent $1 is asked by $2 with the message $3 at $4. A contact that holds is left alone.
INSERT INTO contacts (agent_id, peer_id, message_id, created_at)
VALUES ($1, $2, $3, $4)
ON CONFLICT (agent_id, peer_id) DO UPDATE SET
    status = 'pending', message_id = excluded.message_id, rate_per_minute = NULL, expires_at = NULL, reason = NULL,
    decided_at = NULL
WHERE contacts.status <> 'accepted' OR contacts.expires_at <= $4
