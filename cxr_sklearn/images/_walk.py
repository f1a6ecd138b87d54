"""Which files are images: the one walk through a folder, for all commands."""

from __future__ import annotations

import mimetypes
import os
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from .._io import open_regular, user_path
from ..exceptions import DataError

IMAGE_SUFFIXES = {".jpeg", ".jpg", ".jfif", ".png", ".tif", ".tiff", ".bmp", ".webp", ".dcm", ".dicom"}
#: What else people give by mistake.
_ARCHIVES = {".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar"}
_SPREADSHEETS = {".xlsx", ".xlsm", ".xls", ".ods", ".numbers", ".parquet", ".feather"}


def other_kind(path: Path) -> str | None:
    """Say what a file is that is neither an image nor a table of images, and what to do; None for any other path."""
    suffix = path.suffix.lower()
    if suffix in _ARCHIVES and path.is_file():
        return f"{path} is an archive; unpack it, and give the folder"
    if suffix in _SPREADSHEETS and path.is_file():
        return f"{path} is not a CSV file; save the table as one (CSV UTF-8)"
    return None


class Folder(NamedTuple):
    """A folder and the paths of the files in it."""

    #: The names of the folders from the root to this one.
    parts: tuple[str, ...]
    images: list[str]
    #: Files that hold an image of a kind that is not read, or are DICOM without a suffix that says so.
    passed_by: list[str]


def walk(root: Path) -> Iterator[Folder]:
    """Yield a folder and all folders below it, in order; links are followed, but never back up.

    Hidden files and folders and ``__MACOSX`` are ignored.

    Raises
    ------
    DataError
        If a folder cannot be read.
    """
    # Real paths of a folder and its parents: following a link to one of them would never end.
    above: dict[str, tuple[str, ...]] = {}
    for directory, folders, names in os.walk(root, followlinks=True, onerror=_refuse):
        real = os.path.realpath(directory)
        parents = above.get(os.path.dirname(directory), ())  # noqa: PTH120 - called for every folder
        if real in parents:
            folders.clear()
            continue
        above[directory] = (*parents, real)
        folders[:] = sorted(name for name in folders if name != "__MACOSX" and not name.startswith("."))
        images, passed_by = [], []
        for name in sorted(name for name in names if not name.startswith(".")):
            path = os.path.join(directory, name)  # noqa: PTH118
            if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES:  # noqa: PTH122
                images.append(path)
            elif _holds_an_image(path, name):
                passed_by.append(path)
        yield Folder(Path(directory).relative_to(root).parts, images, passed_by)


def _refuse(error: OSError) -> None:
    raise DataError(f"{error.filename} cannot be read: {error.strerror}") from error


def _holds_an_image(path: str, name: str) -> bool:
    kind = mimetypes.guess_type(name)[0]
    if kind is not None:
        return kind.startswith(("image/", "application/dicom"))
    try:  # scanners export DICOM files called IM000001, or by a number with dots
        with open_regular(path) as file:
            return name != "DICOMDIR" and file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def image_paths(places: Iterable[str | os.PathLike[str]]) -> list[str]:
    """Return files as they are and folders as the image files below them, sorted; nothing twice, and nothing hidden.

    Raises
    ------
    DataError
        If a folder holds no image files or cannot be read, or a path is empty.

    Warns
    -----
    UserWarning
        If a folder also holds images of kinds that are not read.
    """
    found: dict[str, None] = {}
    passed_by: list[str] = []
    for place in (os.fspath(place) for place in places):
        if not place:
            raise DataError("a path is empty")
        path = user_path(place)
        if path.suffix.lower() in (".csv", ".tsv") and path.is_file():
            raise DataError(f"{path} is a table; give its images, or their paths on stdin and - for them")
        if reason := other_kind(path):
            raise DataError(reason)
        if not path.is_dir():
            found[_plain(path)] = None
            continue
        folders = list(walk(path))
        passed_by += (other for folder in folders for other in folder.passed_by)
        below = sorted(_plain(image) for folder in folders for image in folder.images)
        if not below:
            raise DataError(f"{path} holds no image files" + (f"; {_not_read(passed_by)}" if passed_by else ""))
        found |= dict.fromkeys(below)
    if passed_by:
        warnings.warn(_not_read(passed_by), stacklevel=2)
    return list(found)


def _plain(path: str | os.PathLike[str]) -> str:
    plain = os.path.normpath(path)
    return os.fspath(path) if plain.startswith("~") else plain  # ./~ is not the home folder


def _not_read(paths: list[str]) -> str:
    more = f" and {len(paths) - 3:,} more" if len(paths) > 3 else ""
    return (
        f"{counted(len(paths), 'image file')} of a kind that is not read, skipped: {', '.join(paths[:3])}{more}; "
        "DICOM files must end in .dcm"
    )


def counted(count: int, noun: str) -> str:
    """Return a number with its noun."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
