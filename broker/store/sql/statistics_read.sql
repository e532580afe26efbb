-- Everything counted for $3 (the nil UUID: the deployment) of messages created since the day $4, and its minutes
-- since $2: the sums and what is not folded yet, in one snapshot. Deltas of at
-- most $5 messages are added.
WITH deltas AS (
    SELECT *
    FROM (SELECT *, sum(messages) OVER (ROWS UNBOUNDED PRECEDING) AS up_to FROM statistics_deltas) AS d
    WHERE up_to <= $5::bigint
),
\ir statistics_facts.sql
,
totals AS (
    SELECT side, status, message_type, reason, sum(messages)::bigint AS messages
    FROM (
        SELECT side, status, message_type, reason, messages
        FROM statistics_totals WHERE agent_id = $3 AND day >= $4
        UNION ALL
        SELECT side, status, message_type, reason, messages
        FROM changed_totals WHERE agent_id = $3 AND day >= $4
    ) AS t
    GROUP BY side, status, message_type, reason
    HAVING sum(messages) <> 0
),
deliveries AS (
    SELECT side, bucket, sum(messages)::bigint AS messages, sum(total_ms)::bigint AS total_ms
    FROM (
        SELECT side, bucket, messages, total_ms
        FROM statistics_deliveries WHERE agent_id = $3 AND day >= $4
        UNION ALL
        SELECT t.side, u.bucket, u.messages, u.total_ms
        FROM statistics_times AS t
        CROSS JOIN LATERAL unnest(t.buckets, t.messages, t.total_ms) AS u (bucket, messages, total_ms)
        WHERE t.agent_id = $3 AND t.day >= $4
        UNION ALL
        SELECT side, bucket, messages, total_ms
        FROM changed_deliveries WHERE agent_id = $3 AND day >= $4
    ) AS d
    GROUP BY side, bucket
    HAVING sum(messages) <> 0
    ORDER BY side, bucket
),
minutes AS (
    SELECT
        side, minute, coalesce(sum(accepted), 0)::bigint AS accepted,
        coalesce(sum(delivered), 0)::bigint AS delivered, coalesce(sum(processed), 0)::bigint AS processed
    FROM (
        SELECT side, minute, accepted, delivered, processed
        -- IS TRUE keeps the planner off the index of minutes, which holds those of all agents.
        FROM statistics_minutes WHERE agent_id = $3 AND (minute >= $2) IS TRUE
        UNION ALL
        SELECT side, minute, accepted, delivered, processed FROM changed_minutes WHERE agent_id = $3
    ) AS m
    GROUP BY side, minute
)
SELECT
    (SELECT coalesce(json_agg(json_build_array(side, status, message_type, reason, messages)), '[]')
        FROM totals)::text AS totals,
    (SELECT coalesce(json_agg(json_build_array(side, bucket, messages, total_ms)), '[]')
        FROM deliveries)::text AS deliveries,
    (SELECT coalesce(json_agg(json_build_array(
        side, extract(epoch FROM minute)::bigint, accepted, delivered, processed)), '[]')
        FROM minutes)::text AS minutes,
    (SELECT coalesce(sum(messages), 0) <= $5::bigint FROM statistics_deltas) AS complete,
    least(
        (SELECT min(day) FROM statistics_totals
            WHERE agent_id = '00000000-0000-0000-0000-000000000000' AND side = 'all'),
        (SELECT (min(accepted_at) AT TIME ZONE 'UTC')::date FROM rows WHERE sign > 0)) AS first_day
