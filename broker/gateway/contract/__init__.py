"""The HTTP contract, row by row: one module of operations per subject."""
