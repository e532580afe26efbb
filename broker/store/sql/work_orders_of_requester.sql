-- A page of what agent $1 has ordered, in the statuses $2, before id $3, newest first. Each status is a range of
-- the index in the order wanted, so each gives its first rows.
SELECT
\ir work_order_columns.sql
    ,
\ir work_order_names.sql
FROM unnest($2::text[]) AS wanted (status)
CROSS JOIN LATERAL (
    SELECT * FROM work_orders
    WHERE requester_id = $1 AND status = wanted.status AND id < $3::uuid
    ORDER BY id DESC
    LIMIT $4
) AS w
ORDER BY w.id DESC
LIMIT $4
