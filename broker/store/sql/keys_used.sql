-- Note when keys were last used; only where that is news by a minute, so that busy keys cost few writes.
UPDATE agent_keys SET last_used_at = used.at
FROM (
    SELECT id, to_timestamp(at_ms::float8 / 1000) AS at FROM unnest($1::text[], $2::int8[]) AS u (id, at_ms)
) AS used
WHERE agent_keys.id = used.id
    AND (agent_keys.last_used_at IS NULL OR used.at > agent_keys.last_used_at + interval '1 minute')
