    w.id, w.status, w.is_open, w.requester_id, w.worker_id, w.title, w.description, w.requirements,
    w.capabilities, w.budget_usd, w.deadline_at, w.estimated_completion, w.percent, w.result, w.status_reason,
    w.lease_number, w.lease_token, w.lease_until, w.offer_at, w.last_event, w.created_at, w.updated_at,
    w.accepted_at, w.finished_at
