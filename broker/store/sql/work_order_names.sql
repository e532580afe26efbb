LEFT JOIN agents AS requester ON requester.id = w.requester_id
LEFT JOIN agents AS worker ON worker.id = w.worker_id
