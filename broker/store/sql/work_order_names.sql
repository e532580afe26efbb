    (SELECT name FROM agents WHERE id = w.requester_id) AS requester_name,
    (SELECT name FROM agents WHERE id = w.worker_id) AS worker_name
