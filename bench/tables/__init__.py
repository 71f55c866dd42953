"""The one table renderer of the project: a table as data, drawn on a terminal, as Markdown, HTML, CSV and LaTeX."""
