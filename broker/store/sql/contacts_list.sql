-- A page of the contacts of $1 in both directions, of status $2 (null: any), behind the position $3, $4, $5.
-- Agents that were deleted are nobody's contacts any more.
(
    SELECT c.*, agents.name AS other_name
    FROM contacts AS c
    JOIN agents ON agents.id = c.peer_id AND agents.deleted_at IS NULL
    WHERE c.agent_id = $1 AND ($2::text IS NULL OR c.status = $2)
        AND (c.created_at, c.agent_id, c.peer_id) > ($3::timestamptz, $4::uuid, $5::uuid)
    ORDER BY c.created_at, c.agent_id, c.peer_id
    LIMIT $6
)
UNION ALL
(
    SELECT c.*, agents.name AS other_name
    FROM contacts AS c
    JOIN agents ON agents.id = c.agent_id AND agents.deleted_at IS NULL
    WHERE c.peer_id = $1 AND ($2::text IS NULL OR c.status = $2)
        AND (c.created_at, c.agent_id, c.peer_id) > ($3::timestamptz, $4::uuid, $5::uuid)
    ORDER BY c.created_at, c.agent_id, c.peer_id
    LIMIT $6
)
ORDER BY created_at, agent_id, peer_id
LIMIT $6
