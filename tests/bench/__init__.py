"""Benchmarks, one program per subject: `python -m bench.<name>`, all of them: `python -m bench`."""
