-- Attempts. Where there is one of each message, as mostly, $22 is null. What all rows say alike comes as one
-- value ($35..$38), and its column as null.
    INSERT INTO {attempts} (
        message_id, round, attempt, status, response_code, response_body, error, duration_ms, attempted_at
    )
    SELECT
        message_id, coalesce(round, 0), coalesce(attempt, $35::text::int4), coalesce(status, $36),
        coalesce(response_code, $37::text::int4), coalesce(response_body, $38), error, coalesce(duration_ms, 0),
        to_timestamp(attempted_ms::float8 / 1000)
    FROM (
        SELECT
            unnest(CASE WHEN $22::text IS NULL THEN (SELECT ids FROM given) ELSE unpacked($22)::uuid[] END)
                AS message_id,
            unnest(unpacked($23)::int2[]) AS round, unnest(unpacked($24)::int4[]) AS attempt,
            unnest(unpacked($25)) AS status, unnest(unpacked($26)::int4[]) AS response_code,
            unnest(unpacked($27)) AS response_body, unnest(unpacked($28)) AS error,
            unnest(unpacked($29)::int4[]) AS duration_ms, unnest(unpacked($30)::int8[]) AS attempted_ms
    ) AS u
