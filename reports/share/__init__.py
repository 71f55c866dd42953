"""Runs in comparison: compare two, export an entry, merge, verify."""
