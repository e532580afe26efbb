    m.status IN ('failed', 'expired')
    AND m.created_at >= $2 AND m.created_at <= $4 AND (m.created_at, m.id) < ($4, $5::uuid)
    AND ($3::text IS NULL OR m.status_reason = $3)
