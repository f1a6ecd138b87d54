"""The command line: thin, quiet, and quick to say what is wrong."""

from . import data, model, serve, study
from .app import app

__all__ = ["app", "data", "model", "serve", "study"]
