-- A new work order; its time is the server's, so that all of its times are of one clock. No row where it is
-- there already.
INSERT INTO work_orders AS w (
    id, requester_id, worker_id, is_open, status, title, description, requirements, capabilities, budget_usd,
    deadline_at, last_event, created_at, updated_at, offer_at
)
SELECT
    $1, $2, $3, $3::uuid IS NULL, 'pending', $4, $5, $6::text::jsonb, $7, $8, $9, 1, made, made,
    CASE WHEN $3 IS NULL THEN made END
FROM date_trunc('milliseconds', clock_timestamp()) AS made
ON CONFLICT (id) DO NOTHING
RETURNING
\ir work_order_columns.sql
