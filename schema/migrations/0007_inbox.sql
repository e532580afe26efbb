-- Inboxes, and replies by what they answer.

INSERT INTO schema_migrations (version, name) VALUES (7, 'inbox');

-- What waits for an agent, in the order it is shown, by itself: a message that was delivered before it was first
-- recorded never enters these indexes, and those of past days are next to empty. The id makes a cursor exact;
-- `expires_at` is carried so that counting an inbox reads nothing but the index.
CREATE INDEX agent_messages_pending ON agent_messages (to_agent_id, priority, created_at, id)
    INCLUDE (expires_at) WHERE status = 'pending';
-- The same by type: a few pings in an inbox of a million tasks are found without reading the tasks.
CREATE INDEX agent_messages_pending_type ON agent_messages (to_agent_id, message_type, priority, created_at, id)
    INCLUDE (expires_at) WHERE status = 'pending';

-- Replies to a message, for whoever waits for one.
CREATE INDEX agent_messages_replies ON agent_messages (reply_to, created_at) WHERE reply_to IS NOT NULL;
