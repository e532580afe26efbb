-- Write messages that were finished at their first attempt, what statistics note of them (migration 5), and
-- attempts, straight into the partitions of a day: of messages {messages}, of attempts {attempts}. All of it is
-- refused where anything is known already.
-- $1..$21: columns of messages, $22..$30: columns of attempts, as broker.store.columns packs them.
-- A partition's own statement starts at half the price of the whole table's: no row is looked for before it
-- goes in, none is routed, no trigger fires (measured).
WITH messages AS (
    INSERT INTO {messages} (
        id, from_agent_id, to_agent_id, root_id, reply_to, created_at, expires_at, deliver_at, delivered_at,
        processed_at, placed_at, priority, hop, status, message_type, conversation_id, content, metadata, result,
        route, requirements
    )
    SELECT
        id, from_agent_id, to_agent_id, root_id, reply_to, to_timestamp(created_us::float8 / 1000000),
        to_timestamp(expires_us::float8 / 1000000), to_timestamp(deliver_us::float8 / 1000000),
        to_timestamp(delivered_ms::float8 / 1000), to_timestamp(processed_ms::float8 / 1000),
        to_timestamp(placed_ms::float8 / 1000), priority, coalesce(hop, 0), status, message_type,
        conversation_id, content::jsonb, metadata::jsonb, result::jsonb, route::jsonb, requirements::jsonb
    FROM (
        SELECT
            unnest(unpacked($1)::uuid[]) AS id, unnest(unpacked($2)::uuid[]) AS from_agent_id,
            unnest(unpacked($3)::uuid[]) AS to_agent_id, unnest(unpacked($4)::uuid[]) AS root_id,
            unnest(unpacked($5)::uuid[]) AS reply_to, unnest(unpacked($6)::int8[]) AS created_us,
            unnest(unpacked($7)::int8[]) AS expires_us, unnest(unpacked($8)::int8[]) AS deliver_us,
            unnest(unpacked($9)::int8[]) AS delivered_ms, unnest(unpacked($10)::int8[]) AS processed_ms,
            unnest(unpacked($11)::int8[]) AS placed_ms, unnest(unpacked($12)::int2[]) AS priority,
            unnest(unpacked($13)::int2[]) AS hop, unnest(unpacked($14)) AS status,
            unnest(unpacked($15)) AS message_type, unnest(unpacked($16)) AS conversation_id,
            unnest(unpacked($17)) AS content, unnest(unpacked($18)) AS metadata, unnest(unpacked($19)) AS result,
            unnest(unpacked($20)) AS route, unnest(unpacked($21)) AS requirements
    ) AS u
    RETURNING
        to_agent_id, from_agent_id, message_type, status, created_at, deliver_at, delivered_at, processed_at
), attempts AS (
    INSERT INTO {attempts} (
        message_id, round, attempt, status, response_code, response_body, error, duration_ms, attempted_at
    )
    SELECT
        message_id, coalesce(round, 0), attempt, status, response_code, response_body, error,
        coalesce(duration_ms, 0), to_timestamp(attempted_ms::float8 / 1000)
    FROM (
        SELECT
            unnest(unpacked($22)::uuid[]) AS message_id, unnest(unpacked($23)::int2[]) AS round,
            unnest(unpacked($24)::int4[]) AS attempt, unnest(unpacked($25)) AS status,
            unnest(unpacked($26)::int4[]) AS response_code, unnest(unpacked($27)) AS response_body,
            unnest(unpacked($28)) AS error, unnest(unpacked($29)::int4[]) AS duration_ms,
            unnest(unpacked($30)::int8[]) AS attempted_ms
    ) AS u
)
INSERT INTO statistics_deltas (
    sign, messages, to_agents, from_agents, types, statuses, reasons, created, started, delivered, processed)
SELECT
    1, count(*), array_agg(to_agent_id), array_agg(from_agent_id), array_agg(message_type), array_agg(status),
    array_agg(NULL::text), array_agg(created_at), array_agg(greatest(created_at, deliver_at)),
    array_agg(delivered_at), array_agg(processed_at)
FROM messages
