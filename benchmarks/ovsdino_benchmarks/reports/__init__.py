"""Reports of results as Markdown and HTML."""
