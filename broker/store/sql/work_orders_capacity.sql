-- How many orders agent $1 may work on at once; locked, so that its acceptances take turns.
SELECT max_concurrent_jobs FROM agents WHERE id = $1 FOR NO KEY UPDATE
