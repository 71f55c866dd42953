"""Numbers of a run: its scores, statistics and votes."""
