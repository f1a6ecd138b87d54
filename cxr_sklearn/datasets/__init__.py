"""Folders, tables and archives of radiographs as one DataFrame: fetched, checked, divided and drawn from."""

from ._names import patient_of, series_of
from .audit import check
from .folder import load_folder, load_frame
from .kaggle import fetch_chest_xray
from .splits import balanced_subset, group_split, write_subset

__all__ = [
    "balanced_subset",
    "check",
    "fetch_chest_xray",
    "group_split",
    "load_folder",
    "load_frame",
    "patient_of",
    "series_of",
    "write_subset",
]
