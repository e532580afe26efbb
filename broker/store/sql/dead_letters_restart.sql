-- Begin round $3 of messages $1, created at $2: pending again, for recipient $4 (null: to be chosen anew), with
-- expiry $5.
UPDATE agent_messages AS m SET
    status = 'pending', round = u.round, retry_count = 0, status_reason = NULL, result = NULL,
    next_attempt_at = NULL, delivered_at = NULL, processed_at = NULL, deliver_at = NULL, mailbox_entry = NULL,
    to_agent_id = u.to_agent_id, expires_at = u.expires_at
FROM unnest($1::uuid[], $2::timestamptz[], $3::int2[], $4::uuid[], $5::timestamptz[])
    AS u (id, created_at, round, to_agent_id, expires_at)
WHERE m.id = u.id AND m.created_at = u.created_at AND m.round = u.round - 1
    AND m.status IN ('failed', 'expired')
