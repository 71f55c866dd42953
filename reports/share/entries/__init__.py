"""Leaderboard entries: export a run as an entry, check an entry, merge entries into the own run's tables."""
