-- How many orders other than $2 agent $1 works on.
SELECT count(*) FROM work_orders WHERE worker_id = $1 AND status = 'accepted' AND id <> $2
