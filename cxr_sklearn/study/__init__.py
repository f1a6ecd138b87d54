"""Runs from a frame of images to a folder with tables, models and a report."""
