-- A page of what agent $1 has to do, has done, or may take, in the statuses $2, before id $3, newest first.
SELECT
\ir work_order_columns.sql
    ,
\ir work_order_names.sql
FROM (
    SELECT own.*
    FROM unnest($2::text[]) AS wanted (status)
    CROSS JOIN LATERAL (
        SELECT * FROM work_orders
        WHERE worker_id = $1 AND status = wanted.status AND id < $3::uuid
        ORDER BY id DESC
        LIMIT $4
    ) AS own
    UNION ALL
    SELECT offered.*
    FROM work_order_offers AS o
    JOIN work_orders AS offered ON offered.id = o.order_id
    WHERE o.agent_id = $1 AND o.stands AND o.order_id < $3::uuid
        AND offered.status = ANY($2::text[]) AND offered.worker_id IS DISTINCT FROM $1
) AS w
ORDER BY w.id DESC
LIMIT $4
