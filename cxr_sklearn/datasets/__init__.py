"""Folders, tables and archives of radiographs as one DataFrame: fetched, checked, drawn and divided."""

from .folder import load_folder
from .names import patient_of, series_of
from .splits import balanced_subset

__all__ = ["balanced_subset", "load_folder", "patient_of", "series_of"]
