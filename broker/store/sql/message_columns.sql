    m.id, m.from_agent_id, m.to_agent_id, m.conversation_id, m.message_type, m.priority, m.content, m.metadata,
    m.status, m.retry_count, m.expires_at, m.created_at, m.delivered_at, m.processed_at, m.result,
    m.status_reason, m.reply_to, m.root_id, m.hop, m.deliver_at, m.next_attempt_at, m.mailbox_entry
