-- Move at most $1 rows of statistics_deliveries, which earlier releases wrote, to statistics_times; return how many.
WITH gone AS (
    DELETE FROM statistics_deliveries
    WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM statistics_deliveries ORDER BY agent_id, side, day, bucket LIMIT $1))
    RETURNING *
),
moved AS (
    INSERT INTO statistics_times AS t (agent_id, side, day, buckets, messages, total_ms)
    SELECT agent_id, side, day, array_agg(bucket), array_agg(messages), array_agg(total_ms)
    FROM gone
    GROUP BY agent_id, side, day
\ir statistics_add_times.sql
)
SELECT count(*) FROM gone
