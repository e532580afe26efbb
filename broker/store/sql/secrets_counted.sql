-- How many secrets are stored, by what they begin with: the mark of a key, or nothing where they are in the clear.
SELECT
    CASE WHEN starts_with(secret, $1) THEN substring(secret FROM '^[^:]*:[^:]*:[^:]*:') ELSE '' END AS mark,
    count(*) AS secrets
FROM (
    SELECT signing_secret AS secret FROM agents
    UNION ALL
    SELECT previous_secret FROM agents
) AS stored
WHERE secret <> ''
GROUP BY 1
