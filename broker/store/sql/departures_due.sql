-- Agents that are leaving and should be looked at by now, the longest overdue first.
SELECT id, name, deleted_at, drains_until FROM agents
WHERE departure_look_at <= $1
ORDER BY departure_look_at
LIMIT $2
