-- What all rows say alike comes as one value ($31..$34), and its column as null. Where a message was
-- put into its mailbox when it was delivered, as most are, only that moment comes.
        id, from_agent_id, to_agent_id, root_id, reply_to, to_timestamp(created_us::float8 / 1000000),
        to_timestamp(expires_us::float8 / 1000000), to_timestamp(deliver_us::float8 / 1000000),
        to_timestamp(delivered_ms::float8 / 1000), to_timestamp(processed_ms::float8 / 1000),
        to_timestamp(coalesce(placed_ms, delivered_ms)::float8 / 1000), coalesce(priority, $31::text::int2),
        coalesce(hop, 0), coalesce(status, $32), coalesce(message_type, $33), conversation_id, content::jsonb,
        coalesce(metadata::jsonb, $34::text::jsonb), result::jsonb, route::jsonb, requirements::jsonb
