"""A fitted pipeline: its steps, its file, its predictions and heat maps."""
