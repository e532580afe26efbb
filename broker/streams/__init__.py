"""Redis: keys, scripts, connections. Knows nothing of Postgres or HTTP."""
