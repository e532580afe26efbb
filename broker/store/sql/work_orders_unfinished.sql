-- How many unfinished orders agent $1 has made, counted up to $2.
SELECT count(*) FROM (
    SELECT FROM work_orders WHERE requester_id = $1 AND status IN ('pending', 'accepted') LIMIT $2
) AS unfinished
