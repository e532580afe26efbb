-- The partitions of days before $1 and what drops each. Also those that an interrupted run has detached
-- already, or half: a detach that is pending can only be finalised.
SELECT
    child.relname AS name,
    array_remove(ARRAY[
        CASE
            WHEN inherits.inhrelid IS NULL THEN NULL
            WHEN inherits.inhdetachpending
            THEN format('ALTER TABLE %I DETACH PARTITION %I FINALIZE', parent, child.relname)
            ELSE format('ALTER TABLE %I DETACH PARTITION %I CONCURRENTLY', parent, child.relname)
        END,
        format('DROP TABLE IF EXISTS %I', child.relname)
    ], NULL) AS statements
FROM unnest(ARRAY['agent_messages', 'message_delivery_log']) AS parent
JOIN pg_class AS child
    ON child.relnamespace = current_schema()::text::regnamespace
    AND child.relkind = 'r'
    AND child.relname ~ ('^' || parent || '_p[0-9]{8}$')
LEFT JOIN pg_inherits AS inherits ON inherits.inhrelid = child.oid
WHERE right(child.relname, 8) < to_char($1::date, 'YYYYMMDD')
ORDER BY child.relname
