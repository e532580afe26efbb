-- Put messages into the outbox: rows $1, encoded envelopes $2. The keeper leaves them alone for $3 ms.
INSERT INTO outbox (id, due_at, envelope)
SELECT id, now() + $3::float8 * interval '1 millisecond', envelope
FROM unnest($1::uuid[], $2::bytea[]) AS u (id, envelope)
