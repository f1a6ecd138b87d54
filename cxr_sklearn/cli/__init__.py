"""The command line: thin, quiet, and quick to say what is wrong."""

from . import data, model, study
from .app import app

__all__ = ["app", "data", "model", "study"]
