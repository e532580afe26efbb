"""Postgres: the record. One module per subject, its statements in `sql/`."""
