"""Folders of radiographs as one table: a row per image with its label, split and patient."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from ..decoding import size_and_mode
from ..exceptions import DataError, InputError
from .names import patient_of

IMAGE_SUFFIXES = {".jpeg", ".jpg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".dcm", ".dicom"}
LABELS = {"normal": "normal", "pneumonia": "pneumonia", "neumonia": "pneumonia"}
SPLITS = {"train": "train", "val": "val", "test": "test"}
#: Opening more files than this takes a while, and on a network drive far longer.
_MANY = 20_000
_Header = tuple[int | None, int | None, str | None]


class _Entry(NamedTuple):
    path: str
    label: str
    split: str | None
    #: Where the image lies below its copy of the set: split, class folder and name.
    place: tuple[str, ...]
    #: The folders above that.
    prefix: tuple[str, ...]


def load_folder(root: str | os.PathLike[str], *, sizes: bool | str = "auto") -> pd.DataFrame:
    """Return a table of the images below `root`, sorted by path.

    Class folders are called "normal" or "pneumonia" (or "neumonia"), in any case; the folder above may be "train",
    "val" or "test". The second copy of the set inside the Kaggle archive, ``__MACOSX`` and hidden files do not count.

    Parameters
    ----------
    root : path
    sizes : bool or "auto", default="auto"
        Whether to open every file for its width, height and mode; "auto" does so for up to 20,000 files.

    Returns
    -------
    DataFrame
        One row per image: `path` (str), `label` ("normal" or "pneumonia"), `target` (int64; 1 is pneumonia), `split`
        ("train", "val", "test" or NA), `patient` (str; a file whose name tells no patient is its own), `subtype`
        ("bacteria", "virus" or NA), `width` and `height` in pixels (Int64) and `mode` (Pillow's, or DICOM's photometric
        interpretation), NA where a file was not opened or cannot be.

    Raises
    ------
    DataError
        If `root` is not a folder, holds no image in a class folder, or one whose name cannot be printed.

    Examples
    --------
    >>> frame = load_folder("chest_xray")  # doctest: +SKIP
    >>> train = frame[frame["split"] == "train"]  # doctest: +SKIP
    >>> X, y, groups = train["path"], train["target"], train["patient"]  # doctest: +SKIP
    """
    folder = Path(root)
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder")
    entries = _without_second_copy(_entries(folder))
    if not entries:
        raise DataError(
            f"{folder} holds no images in class folders; expected "
            f"{folder / '[train|val|test]' / 'NORMAL|PNEUMONIA' / '*.jpeg'}"
        )
    refuse_unprintable(entry.path for entry in entries)
    entries.sort(key=lambda entry: entry.path)
    named = [patient_of(entry.place[-1]) for entry in entries]
    frame = pd.DataFrame(
        {
            "path": [entry.path for entry in entries],
            "label": [entry.label for entry in entries],
            "target": [int(entry.label == "pneumonia") for entry in entries],
            "split": pd.array([entry.split for entry in entries], dtype="str"),
            "patient": [
                patient or "/".join(entry.prefix + entry.place)
                for entry, (patient, _) in zip(entries, named, strict=True)
            ],
            "subtype": pd.array([subtype for _, subtype in named], dtype="str"),
        }
    )
    return with_sizes(frame, sizes)


def refuse_unprintable(paths: Iterable[str]) -> None:
    """Refuse file names that would break a table, a report or a terminal."""
    if odd := [path for path in paths if not path.isprintable()]:
        raise DataError(f"rename the files with characters that cannot be printed: {', '.join(map(ascii, odd))}")


def names_no_patient(frame: pd.DataFrame) -> pd.Series:
    """Return for each image whether it counts as a patient of its own, because nothing tells whose it is."""
    pairs = zip(frame["path"].str.replace(os.sep, "/"), frame["patient"], strict=True)
    return pd.Series([f"/{path}".endswith(f"/{patient}") for path, patient in pairs], frame.index, dtype=bool)


def with_sizes(frame: pd.DataFrame, sizes: bool | str) -> pd.DataFrame:
    """Add the columns `width`, `height` and `mode`, as :func:`load_folder` describes them."""
    n = len(frame)
    if sizes not in (True, False, "auto"):
        raise InputError(f"sizes={sizes!r} must be True, False or 'auto'")
    if sizes is False or (sizes == "auto" and n > _MANY):
        facts: list[_Header] = [(None, None, None)] * n
    else:
        with ThreadPoolExecutor() as pool:
            facts = list(pool.map(_header, frame["path"]))
    headers = pd.DataFrame(facts, frame.index, ["width", "height", "mode"])
    return frame.join(headers.astype({"width": "Int64", "height": "Int64", "mode": "str"}))


def _header(path: str) -> _Header:
    try:
        return size_and_mode(path)
    except Exception:  # noqa: BLE001 - whatever is wrong with a file, ImageLoader and check are where it is told
        return None, None, None


def _entries(folder: Path) -> list[_Entry]:
    entries = []
    visited: set[str] = set()
    for directory, folders, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(directory)) in visited:  # a link back up would count every image again
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if name != "__MACOSX" and not name.startswith("."))
        parts = Path(directory).relative_to(folder).parts
        label = LABELS.get(Path(directory).name.lower())
        if label is None:
            continue
        split = SPLITS.get(parts[-2].lower()) if len(parts) > 1 else None
        depth = 2 if split else min(1, len(parts))
        prefix, place = parts[: len(parts) - depth], parts[len(parts) - depth :]
        for name in names:
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES:  # noqa: PTH122
                entries.append(_Entry(os.path.join(directory, name), label, split, (*place, name), prefix))  # noqa: PTH118
    return entries


def _without_second_copy(entries: list[_Entry]) -> list[_Entry]:
    """Drop an image that lies in the same place one copy of the set higher up."""
    there = {(entry.prefix, entry.place) for entry in entries}
    return [
        entry
        for entry in entries
        if not any((entry.prefix[:depth], entry.place) in there for depth in range(len(entry.prefix)))
    ]
