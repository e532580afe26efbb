-- The last day for which both tables have a partition.
SELECT min(latest) FROM (
    SELECT max(to_date(right(child.relname, 8), 'YYYYMMDD')) AS latest
    FROM pg_inherits
    JOIN pg_class AS child ON child.oid = inhrelid
    WHERE inhparent IN ('agent_messages'::regclass, 'message_delivery_log'::regclass)
    GROUP BY inhparent
) AS of_table
