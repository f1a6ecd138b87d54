"""A drawn subset as a folder of its own, with a list of what is in it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pandas as pd

from ..digests import hash_files
from ..exceptions import DataError, ImageReadError
from ..files import replacing

MANIFEST = "manifest.csv"
_COLUMNS = ("path", "label", "split", "patient", "subtype")


def write_subset(frame: pd.DataFrame, directory: str | os.PathLike[str]) -> str:
    """Write the images of a frame into split and class folders, as links where the file system has them.

    ``manifest.csv`` lists every image with its label, split, patient and the SHA-256 of its file. The same images give
    the same manifest, byte for byte, and :func:`load_frame` reads it.

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
        If two images of a split and class have the same name, or `directory` holds anything but an earlier subset.
    ImageReadError
        If files cannot be read.
    OSError
        If `directory` cannot be written to.
    """
    folder = Path(directory)
    rows = frame[frame["split"].notna()]
    places = [
        "/".join((split, label.upper(), Path(path).name))
        for split, label, path in zip(rows["split"], rows["label"], rows["path"], strict=True)
    ]
    manifest = rows.reindex(columns=list(_COLUMNS)).assign(path=places, sha256=_digests(rows["path"].tolist()))
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
    there = {path for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()} if folder.is_dir() else set()
    if not there:
        return
    listed = set()
    if (folder / MANIFEST) in there:
        try:
            listed = {folder / MANIFEST, *(folder / path for path in pd.read_csv(folder / MANIFEST)["path"])}
        except (ValueError, KeyError) as error:
            raise DataError(f"{folder / MANIFEST} is not the list of a subset; choose another folder") from error
    if others := sorted(there - listed):
        raise DataError(f"{folder} holds what is no part of a subset, {others[0]} for one; choose another folder")
    if any(Path(source) in there for source in sources):
        raise DataError(f"{folder} is where the images are drawn from; choose another folder")
    for path in sorted(there, key=lambda path: path.name == MANIFEST):  # last what tells that the rest may go
        path.unlink()


def _link(source: str, target: Path, how: str) -> str:
    """Link or copy, in the cheapest way that works; what failed once is not tried again."""
    if how == "hard links":
        try:
            os.link(source, target)
            return how
        except OSError:  # another file system, or one without hard links
            how = "soft links"
    if how == "soft links":
        try:
            target.symlink_to(source)
            return how
        except OSError:
            how = "copies"
    shutil.copy2(source, target)
    return how
