-- A batch of messages and their attempts, committed together in one round trip. A message that is delivered
-- again after a crash gets its row brought up to date.
WITH recorded AS (
    INSERT INTO messages
    SELECT * FROM unnest(
        $1::uuid[], $2::uuid[], $3::text[], $4::smallint[], $5::jsonb[], $6::jsonb[],
        $7::text[], $8::smallint[], $9::timestamptz[], $10::timestamptz[]
    )
    ON CONFLICT (id) DO UPDATE SET status = EXCLUDED.status, delivered_at = EXCLUDED.delivered_at
)
INSERT INTO attempts
SELECT * FROM unnest(
    $11::uuid[], $12::smallint[], $13::text[], $14::smallint[], $15::integer[], $16::timestamptz[]
);
