"""The frame of images: its columns and the checks that all its readers and users share."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd

from .._io import UNPRINTABLE, user_path_text
from ..exceptions import DataError, InputError
from ..images._decoding import size_and_mode
from ..images._walk import counted as counted

LABELS = {"normal": "normal", "pneumonia": "pneumonia", "neumonia": "pneumonia"}
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
#: In the order of their use.
SPLIT_NAMES = ("train", "val", "test")
#: Opening more files than this takes a while, and very long on a network drive.
_MANY = 20_000


def refuse_unprintable(paths: Iterable[str]) -> None:
    """Refuse names with control characters, or that are not text."""
    if odd := [path for path in paths if UNPRINTABLE.search(path)]:
        more = f" and {len(odd) - 3:,} more" if len(odd) > 3 else ""
        raise DataError(f"rename what has characters that cannot be printed: {', '.join(map(ascii, odd[:3]))}{more}")


def checked_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a table whose `path`, `label`, `target`, `split` and `patient` are as :func:`load_folder` makes them.

    Raises
    ------
    DataError
        If a column or a value is missing, a path occurs twice, or a split or target is unknown.
    ValueError
        If `frame` is not a DataFrame.
    """
    if not isinstance(frame, pd.DataFrame):
        raise InputError(f"expected a table as load_folder returns it, but got {type(frame).__name__}")
    if missing := [name for name in ("path", "target", "split", "patient") if name not in frame]:
        raise DataError(f"the table lacks the columns {missing}; load_folder and load_frame make one that has them")
    if empty := [name for name in ("path", "target", "patient") if frame[name].isna().any()]:
        raise DataError(f"the table has images without {' and '.join(empty)}")
    if odd := sorted(set(frame["split"].dropna()) - set(SPLIT_NAMES), key=str):
        raise DataError(f"split {odd[0]!r} must be one of {', '.join(SPLIT_NAMES)}")
    if not frame["target"].isin((0, 1)).all():
        raise DataError("a target is neither 0 (normal) nor 1 (pneumonia)")
    target = frame["target"].astype("int64")
    checked = frame.assign(
        target=target,
        label=target.map({0: "normal", 1: "pneumonia"}).astype("str"),
        path=pd.Series([user_path_text(path) for path in frame["path"]], frame.index, dtype="str"),
        split=frame["split"].astype("object").astype("str"),
        patient=frame["patient"].astype("object").astype("str"),
    )
    if (twice := checked["path"].duplicated()).any():
        raise DataError(f"duplicate path {checked['path'][twice].iloc[0]}")
    return checked


#: A file in the folder of images that this program drew, so that no figure on them passes for one on patients.
DRAWN = "drawn-by-cxr_sklearn.txt"


def mark_drawn(folder: Path) -> None:
    """Leave a file in a folder which says that the images below were drawn by this program."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / DRAWN).write_text("cxr_sklearn drew the images in this folder. They show no patients.\n")


def any_drawn(paths: Iterable[str]) -> bool:
    """Whether an image lies below a folder that :func:`mark_drawn` marked, or is a link to such an image."""
    files = set(map(Path, paths))
    # Thousands of files share a few folders, so links are followed once for each folder, and for files that are links.
    places = {file.resolve().parent for file in files if file.is_symlink()}
    for parent in {file.parent for file in files}:
        places |= {Path(os.path.normpath(parent.absolute())), parent.resolve()}  # absolute() keeps ".."
    folders = {above for place in places for above in (place, *place.parents)}
    return any((folder / DRAWN).is_file() for folder in folders)


def names_no_patient(frame: pd.DataFrame) -> pd.Series:
    """Return whether each image counts as a patient of its own, because its patient is unknown."""
    pairs = zip(*(frame[name].str.replace(os.sep, "/") for name in ("path", "patient")), strict=True)
    return pd.Series([f"/{path}".endswith(f"/{patient}") for path, patient in pairs], frame.index, dtype=bool)


def with_sizes(frame: pd.DataFrame, sizes: bool | str) -> pd.DataFrame:
    """Add the columns `width`, `height` and `mode`, as :func:`load_folder` describes them."""
    if sizes not in (True, False, "auto"):
        raise InputError(f"sizes={sizes!r} must be True, False or 'auto'")
    facts = [(None, None, None)] * len(frame)
    if sizes and (sizes != "auto" or len(frame) <= _MANY):
        with ThreadPoolExecutor() as pool:
            facts = list(pool.map(_header, frame["path"]))
    headers = pd.DataFrame(facts, frame.index, ["width", "height", "mode"])
    return frame.join(headers.astype({"width": "Int64", "height": "Int64", "mode": "str"}))


def _header(path: str) -> Any:
    try:
        return size_and_mode(path)
    except Exception:  # noqa: BLE001 - ImageLoader and check report files that cannot be read
        return None, None, None


#: With fewer images of a class, chance decides a threshold or an early stop.
MIN_IMAGES_PER_CLASS = 30
