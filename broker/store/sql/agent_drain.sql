-- Let an agent drain: nothing new is taken for it, what waits is still delivered.
UPDATE agents SET
    status = 'disabled', drains_until = $2, departure_look_at = $3, updated_at = greatest(updated_at, $4)
WHERE id = $1 AND deleted_at IS NULL
RETURNING name
