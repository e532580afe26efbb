"""The demonstration: a small fleet of agents as real processes, working through a running broker."""
