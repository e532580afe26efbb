-- When to look at a leaving agent again (null: never), unless somebody has decided anew since $3.
UPDATE agents SET departure_look_at = $2
WHERE id = $1 AND departure_look_at <= $3
