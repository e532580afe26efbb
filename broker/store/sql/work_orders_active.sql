-- How many work orders agent $1 works on: accepted and not finished, whether or not their lease has lapsed.
SELECT count(*) FROM work_orders WHERE worker_id = $1 AND status = 'accepted'
