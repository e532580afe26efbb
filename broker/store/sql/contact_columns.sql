    agent_id, peer_id, status, rate_per_minute, expires_at, reason, message_id, created_at, decided_at
