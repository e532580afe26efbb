-- The columns that every recorded message has, new or not; record_message_values.sql has their values.
        id, from_agent_id, to_agent_id, root_id, reply_to, created_at, expires_at, deliver_at, delivered_at,
        processed_at, placed_at, priority, hop, status, message_type, conversation_id, content, metadata, result,
        route, requirements
