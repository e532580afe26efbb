    id, name, type, endpoint, capabilities, status, max_concurrent_jobs, concurrency, accepts, allow_from, ordered,
    retry_schedule, signing_secret, status_message, accepts_work_orders, contact_policy, deleted_at, drains_until,
    previous_secret, previous_secret_until,
    endpoint_since, endpoint_disabled_reason, endpoint_disabled_at, endpoint_failing_since, endpoint_warned,
    max_pushes_per_second, inbox_messages_max, inbox_bytes_max,
    heartbeat_at, created_at, updated_at
