"""A drawn subset as a folder of its own, with a list of what is in it."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pandas as pd

from ..digests import hash_files
from ..exceptions import DataError, ImageReadError
from ..files import replacing
from .folder import checked_frame, names_no_patient

MANIFEST = "manifest.csv"
#: Another file system, one without links, or one on which the user may not make any.
_NO_LINKS = (errno.EXDEV, errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)
_COLUMNS = ("path", "label", "split", "patient", "subtype")


def write_subset(frame: pd.DataFrame, directory: str | os.PathLike[str]) -> str:
    """Write the images of a frame into split and class folders, as links where the file system has them.

    ``manifest.csv`` lists every image with its label, split, patient, if known, and the SHA-256 of its file. The same
    images give the same manifest, byte for byte, and :func:`load_frame` reads it. A link is the file itself: who edits
    it edits the original.

    Parameters
    ----------
    frame : DataFrame
        As :func:`balanced_subset` returns it; images in no split are left out.
    directory : path
        New, empty, or an earlier subset, which is replaced.

    Returns
    -------
    {"hard links", "soft links", "copies"}
        How the images came there.

    Raises
    ------
    DataError
        If there is nothing to write, two images of a split and class have the same name, or `directory` holds anything
        but an earlier subset, or the images themselves.
    ImageReadError
        If files cannot be read.
    OSError
        If `directory` cannot be written to.
    """
    folder = Path(directory)
    rows = checked_frame(frame)
    rows = rows[rows["split"].notna()]
    if rows.empty:
        raise DataError("no image is in a split, so there is nothing to write")
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file; choose a folder")
    places = [
        "/".join((split, label.upper(), Path(path).name))
        for split, label, path in zip(rows["split"], rows["label"], rows["path"], strict=True)
    ]
    patient = rows["patient"].mask(names_no_patient(rows))
    digests = _digests(rows["path"].tolist())
    manifest = rows.reindex(columns=list(_COLUMNS)).assign(path=places, patient=patient, sha256=digests)
    if (twice := manifest["path"].duplicated()).any():
        raise DataError(f"two images would be {manifest['path'][twice].iloc[0]}; rename one of them")
    _clear(folder, rows["path"])
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / MANIFEST) as draft:  # first, so that a broken-off run can be taken up again
        manifest.sort_values("path").to_csv(draft, index=False, lineterminator="\n")
    how = "hard links"
    for source, place in zip(rows["path"], places, strict=True):
        target = folder / place
        target.parent.mkdir(parents=True, exist_ok=True)
        how = _link(os.path.realpath(source), target, how)
    return how


def _digests(paths: list[str]) -> list[str]:
    digests = hash_files(paths)
    failures = {
        path: str(sha.strerror or sha) for path, sha in zip(paths, digests, strict=True) if isinstance(sha, OSError)
    }
    if failures:
        raise ImageReadError(failures, len(paths))
    return [sha.hex() for sha in digests if isinstance(sha, bytes)]


def _clear(folder: Path, sources: pd.Series) -> None:
    """Take an earlier subset away, and nothing else."""
    # Hidden files are what a file manager leaves, or the draft of a manifest; nothing in a subset is called so.
    there = {path for path in folder.rglob("[!.]*") if not path.is_dir() or path.is_symlink()}
    if not there:
        return
    listed = set()
    if (folder / MANIFEST) in there:
        try:
            earlier = pd.read_csv(folder / MANIFEST, dtype="str")
        except ValueError as error:
            raise DataError(f"{folder / MANIFEST} cannot be read as a table; choose another folder") from error
        if earlier.columns.tolist() != [*_COLUMNS, "sha256"]:  # a list that somebody else made permits nothing
            raise DataError(f"{folder / MANIFEST} is not the list of a subset; choose another folder")
        listed = {folder / MANIFEST, *(folder / path for path in earlier["path"])}
    if others := sorted(there - listed):
        raise DataError(f"{folder} holds what is no part of a subset, {others[0]} for one; choose another folder")
    inside = os.path.realpath(folder)
    if any(Path(os.path.realpath(Path(source).parent)).is_relative_to(inside) for source in sources):
        raise DataError(f"{folder} is where the images are drawn from; choose another folder")
    for path in sorted(there, key=lambda path: path.name == MANIFEST):  # the manifest last: it permits the deletion
        path.unlink()


def _link(source: str, target: Path, how: str) -> str:
    """Link or copy, in the cheapest way that works; what failed once is not tried again."""
    if how == "hard links":
        try:
            os.link(source, target)
            return how
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            how = "soft links"
    if how == "soft links":
        try:
            target.symlink_to(source)
            return how
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            how = "copies"
    shutil.copy2(source, target)
    return how
