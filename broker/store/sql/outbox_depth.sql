-- How many messages wait in the outbox, and how old the oldest is (seconds).
SELECT count(*) AS waiting, coalesce(extract(epoch FROM now() - min(added_at)), 0)::float8 AS age_s FROM outbox
