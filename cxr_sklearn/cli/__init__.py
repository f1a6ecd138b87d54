"""The command line: thin, quiet, and quick to report errors."""

from . import cache, data, model, place, serve, study
from .app import app

__all__ = ["app", "cache", "data", "model", "place", "serve", "study"]
