"""What the bench writes: a table as it goes, a page of Markdown, plots."""
