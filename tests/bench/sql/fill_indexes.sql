-- How to make, on the table $1, every index agent_messages has. Attached, it takes these instead of making its own.
SELECT
    CASE
        WHEN indisprimary
        THEN format('ALTER TABLE %I ADD %s', $1::text, pg_get_constraintdef(c.oid))
        ELSE regexp_replace(
            pg_get_indexdef(i.indexrelid), '^(CREATE (?:UNIQUE )?INDEX) \S+ ON (?:ONLY )?\S+',
            format('\1 ON %I', $1::text))
    END AS statement
FROM pg_index AS i
LEFT JOIN pg_constraint AS c ON c.conindid = i.indexrelid AND c.contype = 'p'
WHERE i.indrelid = 'agent_messages'::regclass
ORDER BY i.indexrelid
