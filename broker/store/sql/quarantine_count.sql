-- How many entries are set aside.
SELECT count(*) FROM quarantine
