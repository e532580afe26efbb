"""Statistics over HTTP: what was counted, and what follows from it."""
