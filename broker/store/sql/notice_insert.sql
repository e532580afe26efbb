-- A message of the broker to an agent that is read in its inbox and pushed nowhere.
INSERT INTO agent_messages (
    id, to_agent_id, created_at, expires_at, priority, status, message_type, content, metadata
)
VALUES ($1, $2, $3, $4, $5, 'pending', $6, $7::text::jsonb, $8::text::jsonb)
ON CONFLICT DO NOTHING
