"""Turn results into Markdown and HTML."""
