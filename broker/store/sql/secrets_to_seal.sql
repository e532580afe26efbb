-- The next $3 agents behind the id $1 with a secret that does not begin with $2, the newest key's mark; locked.
SELECT id, signing_secret, previous_secret
FROM agents
WHERE id > $1
    AND (
        (signing_secret <> '' AND NOT starts_with(signing_secret, $2))
        OR (previous_secret <> '' AND NOT starts_with(previous_secret, $2))
    )
ORDER BY id
LIMIT $3
FOR NO KEY UPDATE
