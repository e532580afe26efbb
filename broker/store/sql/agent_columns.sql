    id, name, type, endpoint, capabilities, status, max_concurrent_jobs, concurrency, accepts, allow_from, ordered,
    retry_schedule, signing_secret, heartbeat_at, created_at, updated_at
