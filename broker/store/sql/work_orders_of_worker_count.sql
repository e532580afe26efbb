-- How many orders agent $1 has to do, has done, or may take, in the statuses $2.
SELECT (
    SELECT count(*) FROM work_orders WHERE worker_id = $1 AND status = ANY($2::text[])
) + (
    SELECT count(*)
    FROM work_order_offers AS o
    JOIN work_orders AS offered ON offered.id = o.order_id
    WHERE o.agent_id = $1 AND o.stands
        AND offered.status = ANY($2::text[]) AND offered.worker_id IS DISTINCT FROM $1
)
