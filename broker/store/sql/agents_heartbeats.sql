-- Note when agents were last heard of: once a minute each, with what may be a minute old, and at once when they
-- come back after a silence.
UPDATE agents SET heartbeat_at = heard.at
FROM (
    SELECT id, to_timestamp(at_ms::float8 / 1000) AS at FROM unnest($1::uuid[], $2::int8[]) AS u (id, at_ms)
) AS heard
WHERE agents.id = heard.id AND heard.at > coalesce(agents.heartbeat_at, '-infinity')
