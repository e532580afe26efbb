-- A page of the contacts of $1 in both directions, of status $2 (null: any), behind the position $3, $4, $5.
WITH own AS (
    (
        SELECT
\ir contact_columns.sql
        , peer_id AS other_id
        FROM contacts
        WHERE agent_id = $1 AND ($2::text IS NULL OR status = $2)
            AND (created_at, agent_id, peer_id) > ($3::timestamptz, $4::uuid, $5::uuid)
        ORDER BY created_at, peer_id
        LIMIT $6
    )
    UNION ALL
    (
        SELECT
\ir contact_columns.sql
        , agent_id AS other_id
        FROM contacts
        WHERE peer_id = $1 AND ($2::text IS NULL OR status = $2)
            AND (created_at, agent_id, peer_id) > ($3::timestamptz, $4::uuid, $5::uuid)
        ORDER BY created_at, agent_id
        LIMIT $6
    )
)
SELECT own.*, agents.name AS other_name
FROM own
JOIN agents ON agents.id = own.other_id
ORDER BY own.created_at, own.agent_id, own.peer_id
LIMIT $6
