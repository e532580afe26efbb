-- Make the partitions of $2 days from $1; return how many tables that took.
SELECT ensure_partitions($1::date, $2::integer)
