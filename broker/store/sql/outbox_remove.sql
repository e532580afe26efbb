-- Forget messages that have been published.
DELETE FROM outbox WHERE id = ANY($1::uuid[])
