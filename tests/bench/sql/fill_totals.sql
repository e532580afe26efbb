-- What statistics would have counted of a filled table: totals by agent and side, and of the deployment.
INSERT INTO statistics_totals AS t (agent_id, side, day, status, message_type, reason, messages)
SELECT agent_id, side, day, status, message_type, reason, sum(messages)
FROM (
    SELECT
        to_agent_id, from_agent_id, (created_at AT TIME ZONE 'UTC')::date AS day, status, message_type,
        coalesce(status_reason, '') AS reason, count(*) AS messages
    FROM {table}
    GROUP BY GROUPING SETS ((to_agent_id, 3, 4, 5, 6), (from_agent_id, 3, 4, 5, 6), (3, 4, 5, 6))
) AS m
CROSS JOIN LATERAL (
    SELECT
        coalesce(to_agent_id, from_agent_id, '00000000-0000-0000-0000-000000000000') AS agent_id,
        CASE WHEN to_agent_id IS NOT NULL THEN 'received' WHEN from_agent_id IS NOT NULL THEN 'sent' ELSE 'all' END
            AS side
) AS s
GROUP BY agent_id, side, day, status, message_type, reason
