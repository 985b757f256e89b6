"""What makes the site of docs/ by mkdocs."""
