-- Of the messages $1, created at $2, those that ended badly in a round whose end their sender has not been told of:
-- marks them as told, and returns what a note says. Who sent nothing by name, has left, or is the broker, is not told.
UPDATE agent_messages AS m SET told_round = m.round
FROM unnest($1::uuid[], $2::timestamptz[]) AS ended (id, created_at), agents AS sender
WHERE m.id = ended.id AND m.created_at = ended.created_at
    AND m.status IN ('failed', 'expired') AND (m.told_round IS NULL OR m.told_round < m.round)
    AND sender.id = m.from_agent_id AND sender.deleted_at IS NULL
    AND NOT m.metadata @> '{"automatic": true}'
RETURNING
    m.id, m.from_agent_id, m.to_agent_id, m.conversation_id, m.message_type, m.priority, m.root_id, m.hop, m.round,
    m.status, m.status_reason, clock_timestamp() AS now,
    (SELECT recipient.name FROM agents AS recipient WHERE recipient.id = m.to_agent_id) AS to_agent_name
