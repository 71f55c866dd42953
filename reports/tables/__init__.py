"""Tables of a report, from summary to LaTeX."""
