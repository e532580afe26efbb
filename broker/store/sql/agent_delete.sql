-- Delete an agent ($3: only one that is draining): its name is free, its secrets are gone; the row stays for those
-- that look up who it was.
UPDATE agents SET
    deleted_at = $2, status = 'disabled', drains_until = NULL, departure_look_at = $4, endpoint = NULL,
    signing_secret = '', previous_secret = NULL, previous_secret_until = NULL, updated_at = greatest(updated_at, $2)
WHERE id = $1 AND deleted_at IS NULL AND (NOT $3 OR drains_until IS NOT NULL)
RETURNING name
