-- Claim key $1 for body $2 and id $3 at $4; one claimed before $5 is forgotten. Nothing comes back when it is
-- claimed already.
INSERT INTO idempotency_keys AS k (key, body, target_id, claimed_at)
VALUES ($1, $2, $3, $4)
ON CONFLICT (key) DO UPDATE SET
    body = excluded.body, target_id = excluded.target_id, claimed_at = excluded.claimed_at,
    status = NULL, reply = NULL, headers = NULL
WHERE k.claimed_at < $5
RETURNING key, body, target_id, status, reply, headers::text AS headers
