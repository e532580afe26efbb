-- How many orders agent $1 has made, in the statuses $2.
SELECT count(*) FROM work_orders WHERE requester_id = $1 AND status = ANY($2::text[])
