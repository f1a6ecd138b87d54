"""The command line: thin, quiet, and quick to report errors."""

from . import cache, data, model, serve, study
from .app import app

__all__ = ["app", "cache", "data", "model", "serve", "study"]
