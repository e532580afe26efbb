-- Lock an agent until the end of the transaction; nothing where there is none.
SELECT id FROM agents WHERE id = $1 AND deleted_at IS NULL FOR NO KEY UPDATE
