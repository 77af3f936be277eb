"""The report of a comparison: one list of tables and figures, as Markdown, HTML and LaTeX."""
