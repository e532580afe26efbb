-- What two agents answered each other.
SELECT
\ir contact_columns.sql
FROM contacts
WHERE (agent_id = $1 AND peer_id = $2) OR (agent_id = $2 AND peer_id = $1)
