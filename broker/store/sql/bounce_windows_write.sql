-- Note in the windows of the senders $1 what they have been told ($2), what was held ($3) and why that ended ($4).
UPDATE bounce_windows AS w SET told = u.told, held = u.held, reasons = u.reasons::jsonb
FROM unnest($1::uuid[], $2::int4[], $3::int8[], $4::text[]) AS u (agent_id, told, held, reasons)
WHERE w.agent_id = u.agent_id
