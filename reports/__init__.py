"""Reports: turns a run folder into tidy summaries, tables, figures and a page."""
