    -- The rule of broker.core.fold.merge. `m`: the row there is; `excluded`: what the ledger has later.
    round = greatest(m.round, excluded.round),
    status = CASE
        WHEN excluded.round > m.round
            OR excluded.round = m.round AND message_rank(excluded.status) > message_rank(m.status)
            AND NOT (m.status = 'delivered' AND excluded.status = 'expired')
        THEN excluded.status ELSE m.status END,
    status_reason = CASE
        WHEN excluded.round > m.round
            OR excluded.round = m.round AND message_rank(excluded.status) > message_rank(m.status)
            AND NOT (m.status = 'delivered' AND excluded.status = 'expired')
        THEN excluded.status_reason ELSE m.status_reason END,
    result = CASE
        WHEN excluded.round > m.round
            OR excluded.round = m.round AND message_rank(excluded.status) > message_rank(m.status)
            AND NOT (m.status = 'delivered' AND excluded.status = 'expired')
        THEN excluded.result ELSE m.result END,
    retry_count = CASE
        WHEN excluded.round > m.round THEN excluded.retry_count
        WHEN excluded.round = m.round THEN greatest(m.retry_count, excluded.retry_count)
        ELSE m.retry_count END,
    next_attempt_at = CASE
        WHEN excluded.round > m.round THEN excluded.next_attempt_at
        WHEN excluded.round < m.round THEN m.next_attempt_at
        WHEN m.status <> 'pending' OR excluded.status <> 'pending' THEN NULL
        WHEN excluded.retry_count > m.retry_count THEN excluded.next_attempt_at
        ELSE m.next_attempt_at END,
    delivered_at = CASE
        WHEN excluded.round > m.round THEN excluded.delivered_at
        WHEN excluded.round = m.round THEN least(m.delivered_at, excluded.delivered_at)
        ELSE m.delivered_at END,
    processed_at = CASE
        WHEN excluded.round > m.round THEN excluded.processed_at
        WHEN excluded.round = m.round THEN least(m.processed_at, excluded.processed_at)
        ELSE m.processed_at END,
    to_agent_id = CASE
        WHEN excluded.placed_at > coalesce(m.placed_at, '-infinity') THEN excluded.to_agent_id
        ELSE m.to_agent_id END,
    mailbox_entry = CASE
        WHEN excluded.placed_at > coalesce(m.placed_at, '-infinity') THEN excluded.mailbox_entry
        ELSE m.mailbox_entry END,
    route = CASE
        WHEN excluded.placed_at > coalesce(m.placed_at, '-infinity') THEN coalesce(excluded.route, m.route)
        ELSE m.route END,
    placed_at = greatest(m.placed_at, excluded.placed_at)
