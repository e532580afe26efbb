-- Which of the messages $1, in their rounds $2, made between $3 and $4 (seconds), are recorded. A message that is
-- replayed has a row before it is published: that its round was routed shows in what has happened to the row.
SELECT m.id
FROM unnest($1::uuid[], $2::int2[]) AS u (id, round)
JOIN agent_messages AS m ON m.id = u.id AND m.created_at >= to_timestamp($3) AND m.created_at < to_timestamp($4)
WHERE u.round = 0 OR m.round > u.round
    OR m.round = u.round AND (m.status <> 'pending' OR m.mailbox_entry IS NOT NULL OR m.retry_count > 0)
