"""Folders of radiographs as one table: a row per image with its label, split and patient."""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
from numbers import Integral
from pathlib import Path, PurePath
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from .decoding import FORMATS
from .exceptions import DataError

IMAGE_SUFFIXES = {".jpeg", ".jpg", ".png", ".tif", ".tiff", ".bmp", ".webp"}
LABELS = {"normal": "normal", "pneumonia": "pneumonia", "neumonia": "pneumonia"}
SPLITS = {"train": "train", "val": "val", "test": "test"}

# The two etiologies are numbered separately: person1_virus and person1_bacteria are two children.
_PNEUMONIA_NAME = re.compile(r"person(\d+)_(bacteria|virus)_\d+(_\d+)?", re.IGNORECASE)
# So are the studies with and without NORMAL2.
_NORMAL_NAME = re.compile(r"(NORMAL2-)?IM-(\d+)-\d+(-\d+)?", re.IGNORECASE)


class _Entry(NamedTuple):
    path: str
    label: str
    split: str | None
    #: Where the image lies below its copy of the set: split, class folder and name.
    place: tuple[str, ...]
    #: The folders above that.
    prefix: tuple[str, ...]


def patient_of(name: str) -> tuple[str | None, str | None]:
    """Read patient and etiology from a file name of the Kaggle set.

    Parameters
    ----------
    name : str
        File name, with or without its suffix.

    Returns
    -------
    patient : str or None
        E.g. "bacteria-12", "virus-12", "IM-0115" or "NORMAL2-IM-0115"; None where the name follows no known pattern.
    subtype : {"bacteria", "virus", None}

    Examples
    --------
    >>> patient_of("person1_virus_6.jpeg"), patient_of("NORMAL2-IM-0115-0001.jpeg"), patient_of("scan 7.png")
    (('virus-1', 'virus'), ('NORMAL2-IM-0115', None), (None, None))
    """
    stem = PurePath(name).stem
    if match := _PNEUMONIA_NAME.fullmatch(stem):
        etiology = match[2].lower()
        return f"{etiology}-{match[1]}", etiology
    if match := _NORMAL_NAME.fullmatch(stem):
        return f"{(match[1] or '').upper()}IM-{match[2]}", None
    return None, None


def series_of(name: str) -> str | None:
    """Read from a file name of the Kaggle set which of its two series a normal radiograph belongs to.

    Returns
    -------
    {"IM", "NORMAL2", None}
        None for a pneumonia, and where the name follows no known pattern.
    """
    match = _NORMAL_NAME.fullmatch(PurePath(name).stem)
    return None if match is None else "NORMAL2" if match[1] else "IM"


def load_folder(root: str | os.PathLike[str], *, sizes: bool = True) -> pd.DataFrame:
    """Return a table of the images below `root`, sorted by path.

    Class folders are called "normal" or "pneumonia" (or "neumonia"), in any case; the folder above may be "train",
    "val" or "test". The second copy of the set inside the Kaggle archive, ``__MACOSX`` and hidden files do not count.

    Parameters
    ----------
    root : path
    sizes : bool, default=True
        Whether to open every file for its width, height and mode.

    Returns
    -------
    DataFrame
        One row per image: `path` (str), `label` ("normal" or "pneumonia"), `target` (int64; 1 is pneumonia), `split`
        ("train", "val", "test" or NA), `patient` (str; a file whose name tells no patient is its own), `subtype`
        ("bacteria", "virus" or NA), `width` and `height` in pixels (Int64) and `mode` (Pillow's), NA where a file
        cannot be opened or `sizes` is False.

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
    if odd := [entry.path for entry in entries if not entry.path.isprintable()]:
        raise DataError(f"rename the files with characters that cannot be printed: {', '.join(map(ascii, odd))}")
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
    return frame.join(_sizes(frame["path"].tolist()) if sizes else _no_sizes(len(frame)))


def balanced_subset(
    frame: pd.DataFrame,
    train: int = 240,
    val: int = 240,
    test: int | None = 234,
    random_state: int | None = None,
) -> pd.DataFrame:
    """Draw a subset with equally many images of both classes in each split, patient by patient.

    Training and validation images are both drawn from the official train split, since the official validation split
    of 16 images decides nothing. No patient is in two splits; of the last patient of a split and class, images may be
    left over, which are in none.

    Parameters
    ----------
    frame : DataFrame
        As :func:`load_folder` returns it.
    train, val : int
        Images of each class.
    test : int or None
        Images of each class, from the test split; None takes all there are, balanced or not.
    random_state : int or None, default=None

    Returns
    -------
    DataFrame
        Rows of `frame`, sorted by path, with `split` as drawn.

    Raises
    ------
    DataError
        If a class has too few images, or a patient would be in two splits: in train and test already, or because of
        images of both classes.
    """
    for name, n in (("train", train), ("val", val), ("test", test)):
        if n is not None and (not isinstance(n, Integral) or n < 0):
            raise DataError(f"{name}={n!r} must be a number of images")
    draw = np.random.default_rng(random_state)
    parts = []
    for target, label in enumerate(("normal", "pneumonia")):
        rows = frame[frame["target"] == target]
        official = {split: rows[rows["split"] == split] for split in ("train", "test")}
        drawn = _draw_patients(official["train"], label, {"train": train, "val": val}, draw)
        drawn += [official["test"]] if test is None else _draw_patients(official["test"], label, {"test": test}, draw)
        parts += drawn
    subset = pd.concat(parts).sort_values("path")
    n_splits = subset.groupby("patient")["split"].nunique()
    if shared := n_splits.index[n_splits > 1].tolist():
        raise DataError(
            f"{len(shared)} patients would be in two splits, {shared[0]} among them; repair their rows first"
        )
    return subset


def _draw_patients(
    rows: pd.DataFrame, label: str, wanted: dict[str, int], draw: np.random.Generator
) -> list[pd.DataFrame]:
    """Fill the wanted splits one after the other; what a split leaves of its last patient is in none."""
    order = draw.permutation(rows["patient"].unique())
    # A stable sort by the patient's turn keeps a patient's images together.
    rows = rows.iloc[np.argsort(pd.Index(order).get_indexer(rows["patient"]), kind="stable")]
    n_all = len(rows)
    parts = []
    for split, n in wanted.items():
        part = rows.iloc[:n]
        if len(part) < n:
            raise DataError(
                f"{n} {label} images of patients in no other split were asked for as {split}, but {len(part)} of "
                f"{n_all} are left"
            )
        parts.append(part.assign(split=split))
        rows = rows[~rows["patient"].isin(part["patient"])]
    return parts


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


def _sizes(paths: list[str]) -> pd.DataFrame:
    with ThreadPoolExecutor() as pool:
        facts = list(pool.map(_size, paths))
    frame = pd.DataFrame(facts, columns=["width", "height", "mode"])
    return frame.astype({"width": "Int64", "height": "Int64", "mode": "str"})


def _size(path: str) -> tuple[int | None, int | None, str | None]:
    try:
        with Image.open(path, formats=FORMATS) as image:
            return image.width, image.height, image.mode
    except Exception:  # noqa: BLE001 - whatever is wrong with a file, ImageLoader is where it is reported
        return None, None, None


def _no_sizes(n: int) -> pd.DataFrame:
    missing = pd.array([pd.NA] * n, dtype="Int64")
    return pd.DataFrame({"width": missing, "height": missing, "mode": pd.array([None] * n, dtype="str")})
