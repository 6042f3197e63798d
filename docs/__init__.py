"""The documentation. Its pages are the Markdown files here; `docs.generate` writes the pages of the reference."""
