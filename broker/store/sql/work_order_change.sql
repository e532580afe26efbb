-- Write what was decided about order $1 when its latest event was $2: no row where it no longer is.
-- $3 status, $4 worker, $5 lease number, $6 token, $7 lease until, $8 now, $9 estimated completion, $10 percent,
-- $11 reason, $12 result, $13 when to offer it next, $14 whether this gave a new lease, $15 events added.
UPDATE work_orders AS w SET
    status = $3::text,
    worker_id = $4,
    lease_number = $5,
    lease_token = $6,
    lease_until = $7,
    updated_at = $8::timestamptz,
    estimated_completion = CASE WHEN $14::boolean THEN $9::timestamptz ELSE estimated_completion END,
    percent = CASE WHEN $14 THEN NULL ELSE coalesce($10::smallint, percent) END,
    status_reason = coalesce($11::text, status_reason),
    result = coalesce($12::text::jsonb, result),
    offer_at = $13,
    accepted_at = CASE WHEN $14 THEN $8 ELSE accepted_at END,
    finished_at = CASE WHEN $3 IN ('pending', 'accepted') THEN NULL ELSE $8 END,
    last_event = last_event + $15::integer
WHERE w.id = $1 AND w.last_event = $2
RETURNING w.id
