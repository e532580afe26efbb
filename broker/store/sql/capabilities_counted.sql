-- How many agents have each of some capabilities, and (no capability) how many there are; $2 at most.
SELECT
    wanted.capability,
    (
        SELECT count(*) FROM (
            SELECT FROM agents WHERE capabilities @> ARRAY[wanted.capability] AND deleted_at IS NULL LIMIT $2
        ) AS capable
    ) AS agents
FROM unnest($1::text[]) AS wanted (capability)
UNION ALL
SELECT NULL, (SELECT count(*) FROM (SELECT FROM agents WHERE deleted_at IS NULL LIMIT $2) AS registered)
