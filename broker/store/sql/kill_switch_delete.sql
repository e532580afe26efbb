-- Take a kill switch away.
DELETE FROM kill_switches WHERE id = $1 RETURNING id
