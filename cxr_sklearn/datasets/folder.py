"""Folders of radiographs as one table: a row per image with its label, split and patient."""

from __future__ import annotations

import mimetypes
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from ..decoding import open_regular, size_and_mode
from ..exceptions import DataError, InputError
from .names import patient_of

IMAGE_SUFFIXES = {".jpeg", ".jpg", ".jfif", ".png", ".tif", ".tiff", ".bmp", ".webp", ".dcm", ".dicom"}
LABELS = {"normal": "normal", "pneumonia": "pneumonia", "neumonia": "pneumonia"}
SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
#: In the order of their use.
SPLIT_NAMES = ("train", "val", "test")
#: Opening more files than this takes a while, and on a network drive far longer.
_MANY = 20_000
#: Bytes at either end that are compared to tell a second copy.
_PIECE = 4096
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
    "val" (or "valid", "validation") or "test". The second copy of the set inside the Kaggle archive, ``__MACOSX`` and
    hidden files do not count.

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
        If `root` is not a folder, holds no image in a class folder, one whose name cannot be printed, or a folder that
        cannot be read.

    Examples
    --------
    >>> frame = load_folder("chest_xray")  # doctest: +SKIP
    >>> train = frame[frame["split"] == "train"]  # doctest: +SKIP
    >>> X, y, groups = train["path"], train["target"], train["patient"]  # doctest: +SKIP
    """
    folder = Path(root)
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder" if folder.exists() else f"{folder} does not exist")
    found, others = _entries(folder)
    entries = _without_second_copy(found)
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
    frame = with_sizes(frame, sizes)
    frame.attrs["left_out"] = (len(others), sorted(others)[:3])
    return frame


def refuse_unprintable(paths: Iterable[str]) -> None:
    """Refuse names that would break a table, a report or a terminal."""
    if odd := [path for path in paths if not path.isprintable()]:
        more = f" and {len(odd) - 3:,} more" if len(odd) > 3 else ""
        raise DataError(f"rename what has characters that cannot be printed: {', '.join(map(ascii, odd[:3]))}{more}")


def checked_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a table whose `path`, `label`, `target`, `split` and `patient` are as :func:`load_folder` makes them.

    Raises
    ------
    DataError
        If a column or a value is missing, an image stands in the table twice, or a split or target is unknown.
    ValueError
        If `frame` is no table.
    """
    if not isinstance(frame, pd.DataFrame):
        raise InputError(f"expected a table as load_folder returns it, but got {type(frame).__name__}")
    if missing := [name for name in ("path", "target", "split", "patient") if name not in frame]:
        raise DataError(f"the table lacks the columns {missing}; load_folder and load_frame make one that has them")
    if empty := [name for name in ("path", "target", "patient") if frame[name].isna().any()]:
        raise DataError(f"the table has images without {' and '.join(empty)}")
    if odd := sorted(set(frame["split"].dropna()) - set(SPLIT_NAMES), key=str):
        raise DataError(f"split {odd[0]!r} is none of {', '.join(SPLIT_NAMES)}")
    if not frame["target"].isin((0, 1)).all():
        raise DataError("a target is neither 0 (normal) nor 1 (pneumonia)")
    target = frame["target"].astype("int64")
    checked = frame.assign(
        target=target,
        label=target.map({0: "normal", 1: "pneumonia"}).astype("str"),
        path=pd.Series([os.fspath(path) for path in frame["path"]], frame.index, dtype="str"),
        split=frame["split"].astype("object").astype("str"),
        patient=frame["patient"].astype("object").astype("str"),
    )
    if (twice := checked["path"].duplicated()).any():
        raise DataError(f"{checked['path'][twice].iloc[0]} stands in the table twice")
    return checked


def names_no_patient(frame: pd.DataFrame) -> pd.Series:
    """Return for each image whether it counts as a patient of its own, because nothing tells whose it is."""
    pairs = zip(*(frame[name].str.replace(os.sep, "/") for name in ("path", "patient")), strict=True)
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


def _entries(folder: Path) -> tuple[list[_Entry], list[str]]:
    """Return the images in class folders, and the paths of all other images."""
    entries, others = [], []
    # Real paths of a folder and those above it: a link to one of them would count every image again and again.
    above: dict[str, tuple[str, ...]] = {}
    for directory, folders, names in os.walk(folder, followlinks=True, onerror=_refuse):
        real = os.path.realpath(directory)
        chain = above.get(os.path.dirname(directory), ())  # noqa: PTH120 - called for every folder
        if real in chain:
            folders.clear()
            continue
        above[directory] = (*chain, real)
        folders[:] = sorted(name for name in folders if name != "__MACOSX" and not name.startswith("."))
        parts = Path(directory).relative_to(folder).parts
        label = LABELS.get((parts[-1] if parts else folder.resolve().name).lower())
        split = SPLITS.get(parts[-2].lower()) if len(parts) > 1 else None
        depth = 2 if split else min(1, len(parts))
        prefix, place = parts[: len(parts) - depth], parts[len(parts) - depth :]
        for name in names:
            if name.startswith("."):
                continue
            path = os.path.join(directory, name)  # noqa: PTH118
            if label and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES:  # noqa: PTH122
                entries.append(_Entry(path, label, split, (*place, name), prefix))
            elif (mimetypes.guess_type(name)[0] or "").startswith(("image/", "application/dicom")):
                others.append(path)
    return entries, others


def _refuse(error: OSError) -> None:
    raise DataError(f"{error.filename} cannot be read: {error.strerror}") from error


def _without_second_copy(entries: list[_Entry]) -> list[_Entry]:
    """Drop an image of which there is a copy in the same place of a folder further up, as in the Kaggle archive."""
    there = {(entry.prefix, entry.place): entry.path for entry in entries}
    kept = []
    for entry in entries:
        higher = [there.get((entry.prefix[:depth], entry.place)) for depth in range(len(entry.prefix))]
        if not any(path and _alike(path, entry.path) for path in higher):
            kept.append(entry)
    return kept


def _alike(path: str, other: str) -> bool:
    """Whether two files are the same, as far as size, beginning and end tell; the names are the same already."""
    try:
        return _ends(path) == _ends(other)
    except OSError:
        return False


def _ends(path: str) -> tuple[int, bytes, bytes]:
    with open_regular(path) as file:
        start = file.read(_PIECE)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - _PIECE, 0))
        return size, start, file.read(_PIECE)
