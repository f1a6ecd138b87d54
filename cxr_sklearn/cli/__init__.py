"""The command line: thin, quiet, and quick to report errors."""

from . import data, model, serve, study
from .app import app

__all__ = ["app", "data", "model", "serve", "study"]
