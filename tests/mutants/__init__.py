"""Deliberate faults of the broker that only tests can turn on, and which test catches each."""
