-- Keep what could not be read or stored; an entry kept already stays as it is.
INSERT INTO quarantine (at, shard, stream, entry, reason, detail, raw)
SELECT to_timestamp(at_ms::float8 / 1000), shard, stream, entry, reason, detail, raw
FROM unnest($1::int8[], $2::int4[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bytea[])
    AS u (at_ms, shard, stream, entry, reason, detail, raw)
ON CONFLICT DO NOTHING
