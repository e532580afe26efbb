-- What an agent says of itself: $2, $4 and $6 tell which of $3, $5 and $7 it says anything about.
UPDATE agents SET
    status_message = CASE WHEN $2::boolean THEN $3::text ELSE status_message END,
    accepts_work_orders = CASE WHEN $4::boolean THEN $5::boolean ELSE accepts_work_orders END,
    max_concurrent_jobs = CASE WHEN $6::boolean THEN $7::integer ELSE max_concurrent_jobs END,
    updated_at = $8
WHERE id = $1 AND deleted_at IS NULL
RETURNING id
