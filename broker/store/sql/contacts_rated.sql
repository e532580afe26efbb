-- Agents with a contact that has a rate, at most $1.
SELECT DISTINCT agent_id
FROM contacts
WHERE rate_per_minute IS NOT NULL AND status = 'accepted'
LIMIT $1
