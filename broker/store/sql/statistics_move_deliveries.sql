-- Move at most $1 rows of statistics_deliveries, which earlier releases wrote, to statistics_times; return how many.
WITH changed_deliveries AS (
    DELETE FROM statistics_deliveries
    WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM statistics_deliveries ORDER BY agent_id, side, day, bucket LIMIT $1))
    RETURNING *
),
moved AS (
\ir statistics_add_times.sql
)
SELECT count(*) FROM changed_deliveries
