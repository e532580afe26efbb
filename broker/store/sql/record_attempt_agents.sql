-- Note whose the attempts were of messages that several agents may have tried: message, round, number, ms, agent.
UPDATE message_delivery_log AS l SET agent_id = u.agent_id
FROM unnest($1::uuid[], $2::int2[], $3::int4[], $4::int8[], $5::uuid[])
    AS u (message_id, round, attempt, attempted_ms, agent_id)
WHERE l.message_id = u.message_id AND l.round = u.round AND l.attempt = u.attempt
    AND l.attempted_at = to_timestamp(u.attempted_ms::float8 / 1000) AND l.agent_id IS NULL
