-- The names of some agents, also of those that are gone: their messages still lie in inboxes.
SELECT id, name FROM agents WHERE id = ANY($1::uuid[])
