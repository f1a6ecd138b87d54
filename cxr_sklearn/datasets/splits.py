"""Division of images into train, validation and test by patient; a drawn subset as a folder."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .._io import atomic_write, folder_to_write
from .._settings import usual_settings
from .._validation import checks_types
from ..exceptions import DataError, ImageReadError, InputError
from ..images._digests import hash_files
from ._frame import DRAWN, any_drawn, checked_frame, counted, mark_drawn, names_no_patient


@usual_settings
@checks_types
def balanced_subset(
    frame: pd.DataFrame,
    train: int = 240,
    val: int = 240,
    test: int | None = 234,
    random_state: int | None = None,
) -> pd.DataFrame:
    """Draw a subset by patient, with equally many images of both classes in each split.

    Training and validation images are both drawn from the official train split, since the official validation split of
    16 images is too small; if no image is in train, from the images in no split. Test images are drawn from the test
    split or, without one, from the same images as the others. Patients with images of both classes are left out. No
    patient is in two splits, so some images of the last patient drawn for a split and class may be in none.

    Parameters
    ----------
    frame : DataFrame
        As :func:`load_folder` returns it.
    train, val : int
        Images of each class.
    test : int or None
        Images of each class; None takes the whole test split, balanced or not.
    random_state : int or None, default=None

    Returns
    -------
    DataFrame
        Rows of `frame`, sorted by path, with `split` as drawn.

    Raises
    ------
    DataError
        If a class has too few images, or a patient is in train and test already.
    ValueError
        If a number is wrong.
    """
    for name, n in (("train", train), ("val", val), ("test", test)):
        if n is not None and (not isinstance(n, Integral) or n < 0):
            raise InputError(f"{name}={n!r} must be a number of images")
    if not (test is None or test) and not train and not val:
        raise InputError("train=0, val=0 and test=0 leave nothing to draw")
    frame = checked_frame(frame).sort_values("path")
    draw = np.random.default_rng(random_state)
    in_test, in_train = frame["split"] == "test", frame["split"] == "train"
    if test is None and not in_test.any():
        raise DataError("test=None takes the whole test split, but no image is in it")
    has_one_class = frame.groupby("patient")["target"].transform("nunique") == 1
    pool = (in_train if in_train.any() else frame["split"].isna()) & has_one_class
    parts = []
    for target, label in enumerate(("normal", "pneumonia")):
        of_class = frame["target"] == target
        official = frame[in_test & of_class]
        wanted = {"train": train, "val": val}
        of_test = {} if test is None else {"test": test}
        parts += _draw_patients(frame[pool & of_class], label, wanted if in_test.any() else wanted | of_test, draw)
        if in_test.any():
            parts += _draw_patients(official, label, of_test, draw) if of_test else [official]
    subset = pd.concat(parts).sort_values("path")
    _refuse_shared(subset)
    return subset


@usual_settings
@checks_types
def group_split(
    frame: pd.DataFrame, val: float = 0.15, test: float = 0.15, random_state: int | None = None
) -> pd.DataFrame:
    """Divide images into train, validation and test by patient.

    For folders without splits, or whose validation split is missing or too small. Images of an existing test split stay
    there; all others are divided anew, including those of an official validation split.

    Parameters
    ----------
    frame : DataFrame
        As :func:`load_folder` returns it.
    val, test : float, default=0.15
        Parts of the images of each class, to the nearest patient; `test` is ignored if `frame` has a test split.
    random_state : int or None, default=None

    Returns
    -------
    DataFrame
        All rows of `frame` in their order, with `split` as divided.

    Raises
    ------
    DataError
        If a split would lack a class, or a patient of the test split has images elsewhere.
    ValueError
        If `val` and `test` are not parts of a whole.

    Examples
    --------
    >>> from cxr_sklearn import load_folder
    >>> from cxr_sklearn.datasets import group_split
    >>> frame = group_split(load_folder("chest_xray"), val=0.2, random_state=0)  # doctest: +SKIP
    """
    if not all(isinstance(part, Real) and part >= 0 for part in (val, test)) or val + test >= 1:
        raise InputError(f"val={val!r} and test={test!r} must be at least 0 and add up to less than 1")
    frame = checked_frame(frame)
    in_test = (frame["split"] == "test").to_numpy()
    test = 0 if in_test.any() else test
    rest = frame[~in_test]
    patients = rest.groupby("patient", sort=True)["target"].agg(["size", "max"])
    draw = np.random.default_rng(random_state)
    split_of: dict[str, str] = {}
    for target in (0, 1):
        # A patient with images of both classes counts as pneumonia.
        sizes = patients["size"][patients["max"] == target]
        sizes = sizes.iloc[draw.permutation(len(sizes))]
        place = (sizes.cumsum() - sizes / 2) / max(sizes.sum(), 1)
        names = np.select([place < val, place < val + test], ["val", "test"], "train")
        split_of |= dict(zip(sizes.index, names, strict=True))
    divided = frame.assign(split=frame["split"].mask(~in_test, frame["patient"].map(split_of)).astype("str"))
    _refuse_shared(divided)
    for name, part in (("train", 1.0), ("val", val), ("test", test)):
        if part and divided["target"][divided["split"] == name].nunique() < frame["target"].nunique():
            raise DataError(f"there are too few patients for both classes in the {name} split; add some, or enlarge it")
    return divided


def _refuse_shared(frame: pd.DataFrame) -> None:
    n_splits = frame.groupby("patient")["split"].nunique()
    if shared := n_splits.index[n_splits > 1].tolist():
        raise DataError(
            f"{counted(len(shared), 'patient')} would be in two splits, for example {shared[0]}: images of the same "
            "patient are in the test split and elsewhere; move them to one place first"
        )


def _draw_patients(
    rows: pd.DataFrame, label: str, wanted: dict[str, int], draw: np.random.Generator
) -> list[pd.DataFrame]:
    """Fill the wanted splits in turn; images that a split leaves of its last patient are in none."""
    order = draw.permutation(rows["patient"].unique())
    # A stable sort by the patient's turn keeps a patient's images together.
    rows = rows.iloc[np.argsort(pd.Index(order).get_indexer(rows["patient"]), kind="stable")]
    n_all, parts = len(rows), []
    for split, n in wanted.items():
        part = rows.iloc[:n]
        if len(part) < n:
            raise DataError(
                f"{split} needs {n} {label} images of patients in no other split, but only {len(part)} of {n_all} are "
                "left"
            )
        parts.append(part.assign(split=split))
        rows = rows[~rows["patient"].isin(part["patient"])]
    return parts


MANIFEST = "manifest.csv"
#: Errors of linking to another file system, or to one where links are not supported or not permitted.
_NO_LINKS = (errno.EXDEV, errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)
_COLUMNS = ("path", "label", "split", "patient", "subtype")


@usual_settings
@checks_types
def write_subset(frame: pd.DataFrame, directory: str | os.PathLike[str]) -> str:
    """Write the images of a frame into split and class folders, as links where the file system supports them.

    ``manifest.csv`` lists every image with its label, split, patient, if known, and the SHA-256 of its file. The same
    images give the same manifest, byte for byte; :func:`load_frame` can read it. Editing a link edits the original.

    Parameters
    ----------
    frame : DataFrame
        As :func:`balanced_subset` returns it; images in no split are left out.
    directory : path
        A new or empty folder, or an earlier subset, which is replaced.

    Returns
    -------
    {"hard links", "soft links", "copies"}
        How the images were written.

    Raises
    ------
    DataError
        If there is nothing to write, two images of a split and class have the same name, or `directory` contains the
        images themselves or anything but an earlier subset.
    ImageReadError
        If files cannot be read.
    InputError
        If `directory` is a file, or has the ending of one.
    OSError
        If `directory` cannot be written to.
    """
    folder = folder_to_write(directory)
    rows = checked_frame(frame)
    rows = rows[rows["split"].notna()]
    if rows.empty:
        raise DataError("no image is in a split, so there is nothing to write")
    places = rows["split"] + "/" + rows["label"].str.upper() + "/" + [Path(path).name for path in rows["path"]]
    patient = rows["patient"].mask(names_no_patient(rows))
    digests = _digests(rows["path"].tolist())
    manifest = rows.reindex(columns=list(_COLUMNS)).assign(path=places, patient=patient, sha256=digests)
    if (twice := manifest["path"].duplicated()).any():
        raise DataError(f"two images would become {manifest['path'][twice].iloc[0]}; rename one of them")
    _clear(folder, rows["path"])
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / MANIFEST) as draft:  # first, so that an interrupted run can be repeated
        manifest.sort_values("path").to_csv(draft, index=False, lineterminator="\n")
    if any_drawn(rows["path"]):
        mark_drawn(folder)
    how = "hard links"
    for source, place in zip(rows["path"], places, strict=True):
        target = folder / place
        target.parent.mkdir(parents=True, exist_ok=True)
        how = _link(os.path.realpath(source), target, how)
    return how


def _digests(paths: list[str]) -> list[str]:
    digests = hash_files(paths)
    found = zip(paths, digests, strict=True)
    if failures := {path: str(sha.strerror or sha) for path, sha in found if isinstance(sha, OSError)}:
        raise ImageReadError(failures, len(paths))
    return [sha.hex() for sha in digests if isinstance(sha, bytes)]


def _clear(folder: Path, sources: pd.Series) -> None:
    """Remove an earlier subset, and nothing else."""
    # Hidden files belong to file managers, or are the draft of a manifest; a subset has none.
    there = {path for path in folder.rglob("[!.]*") if not path.is_dir() or path.is_symlink()}
    if not there:
        return
    listed = set()
    if (folder / MANIFEST) in there:
        try:
            earlier = pd.read_csv(folder / MANIFEST, dtype="str")
        except ValueError as error:
            raise DataError(f"{folder / MANIFEST} cannot be read as a table; choose another folder") from error
        if earlier.columns.tolist() != [*_COLUMNS, "sha256"]:  # only a list made here permits deletion
            raise DataError(f"{folder / MANIFEST} is not the list of a subset; choose another folder")
        listed = {folder / MANIFEST, folder / DRAWN, *(folder / path for path in earlier["path"])}
    if others := sorted(there - listed):
        raise DataError(f"{folder} contains more than a subset, for example {others[0]}; choose another folder")
    inside = os.path.realpath(folder)
    if any(Path(os.path.realpath(Path(source).parent)).is_relative_to(inside) for source in sources):
        raise DataError(f"{folder} contains the images to draw from; choose another folder")
    for path in sorted(there, key=lambda path: path.name == MANIFEST):  # the manifest last: it permits the deletion
        path.unlink()


def _link(source: str, target: Path, how: str) -> str:
    """Link or copy in the cheapest way that works, starting with `how`, and return that way."""
    ways: dict[str, Callable[..., Any]] = {"hard links": os.link, "soft links": os.symlink, "copies": shutil.copy2}
    for way in list(ways)[list(ways).index(how) :]:
        try:
            ways[way](source, target)
        except OSError as error:
            if way == "copies" or error.errno not in _NO_LINKS:
                raise
        else:
            break
    return way
