"""Sharing of results: compare two runs, export an entry, merge entries, verify a run."""
