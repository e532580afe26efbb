-- Replace secrets of agents; nothing else of them changes.
UPDATE agents SET signing_secret = sealed.signing_secret, previous_secret = sealed.previous_secret
FROM unnest($1::uuid[], $2::text[], $3::text[]) AS sealed (id, signing_secret, previous_secret)
WHERE agents.id = sealed.id
