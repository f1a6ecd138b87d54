"""Folders, tables and archives of radiographs as one DataFrame: fetched, checked, divided and drawn from."""

from .checks import check
from .folder import load_folder
from .kaggle import fetch_chest_xray
from .names import patient_of, series_of
from .splits import balanced_subset, group_split
from .subset import write_subset
from .table import load_frame

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
