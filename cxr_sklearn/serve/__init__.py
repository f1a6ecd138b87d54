"""A model behind a page and an API, on this machine and for it alone."""
