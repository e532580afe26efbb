-- Adds `changed_deliveries`, a row for each agent, side, day and bucket, to statistics_times: bucket by bucket.
INSERT INTO statistics_times AS t (agent_id, side, day, buckets, messages, total_ms)
SELECT agent_id, side, day, array_agg(bucket), array_agg(messages), array_agg(total_ms)
FROM changed_deliveries
GROUP BY agent_id, side, day
ON CONFLICT (agent_id, side, day) DO UPDATE SET (buckets, messages, total_ms) = (
    SELECT
        coalesce(array_agg(bucket), '{}'), coalesce(array_agg(messages), '{}'), coalesce(array_agg(total_ms), '{}')
    FROM (
        SELECT bucket, sum(messages)::bigint AS messages, sum(total_ms)::bigint AS total_ms
        FROM (
            SELECT * FROM unnest(t.buckets, t.messages, t.total_ms)
            UNION ALL
            SELECT * FROM unnest(excluded.buckets, excluded.messages, excluded.total_ms)
        ) AS both_of_it (bucket, messages, total_ms)
        GROUP BY bucket
        HAVING sum(messages) <> 0 OR sum(total_ms) <> 0
    ) AS added
)
