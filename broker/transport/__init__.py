"""HTTP out: the push client, vetted addresses, signatures. Knows nothing of the stores."""
