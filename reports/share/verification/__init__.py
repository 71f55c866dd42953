"""Verification of a run folder: everything that can be computed again is compared with what is stored."""
