"""Pictures of memories, and the page that shows a database."""
