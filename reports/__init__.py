"""A run folder in, what goes into a paper out: tidy summaries, tables, figures."""
