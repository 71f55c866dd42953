"""Comparison of two runs: different settings, different scores, and cases that one run alone edits with success."""
