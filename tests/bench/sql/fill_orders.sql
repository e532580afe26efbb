-- Fill work orders: $1 of them between agents $2, a twentieth of them for the first one; most are completed.
INSERT INTO work_orders (
    id, requester_id, worker_id, created_at, updated_at, finished_at, is_open, status, title, description,
    requirements
)
SELECT
    uuidv7(-(number * interval '1 second')), ($2::uuid[])[1 + number % cardinality($2::uuid[])],
    ($2::uuid[])[CASE WHEN number % 20 = 0 THEN 1 ELSE 2 + number % (cardinality($2::uuid[]) - 1) END],
    now(), now(), CASE WHEN number % 10 > 0 THEN now() END, false,
    CASE WHEN number % 10 > 0 THEN 'completed' ELSE 'pending' END, 'Scrape', 'Scrape the listings', '{}'
FROM generate_series(0, $1::integer - 1) AS number
