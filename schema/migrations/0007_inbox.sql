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

-- A count reads nothing but its index where the visibility map is fresh; else it looks at every row (measured: 3
-- to 10 times as long). So partitions are vacuumed as they grow by a fifth instead of when they have doubled: a
-- vacuum skips the pages it has seen, so that is still one pass over a day, 3 us a row.
CREATE OR REPLACE FUNCTION ensure_partition(parent text, day date) RETURNS boolean
    LANGUAGE plpgsql AS $$
DECLARE
    partition text := format('%s_p%s', parent, to_char(day, 'YYYYMMDD'));
BEGIN
    IF EXISTS (SELECT FROM pg_inherits WHERE inhrelid = to_regclass(quote_ident(partition))) THEN
        RETURN false;
    END IF;
    EXECUTE format(
        'CREATE TABLE %I (LIKE %I INCLUDING ALL) WITH (fillfactor = 90,'
        ' autovacuum_vacuum_insert_threshold = 50000, autovacuum_vacuum_insert_scale_factor = 0.2,'
        ' autovacuum_analyze_threshold = 50000, autovacuum_analyze_scale_factor = 0.5)',
        partition, parent);
    EXECUTE format(
        'ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', parent, partition,
        day::timestamp AT TIME ZONE 'UTC', (day + 1)::timestamp AT TIME ZONE 'UTC');
    RETURN true;
END $$;

DO $$
DECLARE
    partition regclass;
BEGIN
    FOR partition IN SELECT inhrelid::regclass FROM pg_inherits WHERE inhparent = 'agent_messages'::regclass LOOP
        EXECUTE format(
            'ALTER TABLE %s SET (autovacuum_vacuum_insert_threshold = 50000,'
            ' autovacuum_vacuum_insert_scale_factor = 0.2)', partition);
    END LOOP;
END $$;
