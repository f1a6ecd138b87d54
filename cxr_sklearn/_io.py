"""Files: written completely or not at all, opened safely, with the versions and class names that they contain."""

from __future__ import annotations

import inspect
import io
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

from ._keras import keras_backend
from .exceptions import InputError


def user_path(path: str | os.PathLike[str]) -> Path:
    """Return a path that a user gave, with the home folder for ``~``; every path from outside comes through here.

    It can be called again on its result: a folder that is really called ``~``, given as ``./~``, comes back as an
    absolute path.

    Raises
    ------
    InputError
        If the path begins with ``~`` and the user has no home folder.
    """
    place = Path(os.path.expanduser(path))  # noqa: PTH111 - Path.expanduser may raise, and takes ./~ for ~
    if place.parts[:1] != ("~",):
        return place
    if os.fspath(path).startswith("~"):
        raise InputError(f"{path}: the home folder that ~ stands for is not known; give the whole path, or set $HOME")
    return place.absolute()


def user_path_text(path: str | os.PathLike[str]) -> str:
    """Return the path of an image as text, with the home folder for ``~``; quick where there is none."""
    text = os.fspath(path)
    return os.fspath(user_path(text)) if text.startswith("~") else text


#: Endings that people give to files, but not to folders.
_FILE_ENDINGS = {
    *(".html", ".md", ".csv", ".tsv", ".xlsx", ".json", ".txt", ".pdf", ".zip", ".tar", ".gz"),
    *(".png", ".jpg", ".jpeg", ".dcm", ".npz", ".h5", ".keras", ".skops", ".joblib", ".onnx", ".sqlite", ".py"),
}


def folder_to_write(path: str | os.PathLike[str]) -> Path:
    """Return the path of a folder, new or not, that results go into.

    Raises
    ------
    InputError
        If there is a file, or the path has the ending of one: nobody who asks for ``report.html`` wants a folder.
    """
    folder = user_path(path)
    if not folder.is_dir() and (folder.exists() or folder.suffix.lower() in _FILE_ENDINGS):
        raise InputError(f"{folder} {'is' if folder.exists() else 'has the ending of'} a file; give a folder")
    return folder


#: What cannot be shown: characters that steer a terminal or break a table, and bytes that are not text. Any other
#: character may be in a name: spaces of all widths, the joiners of Persian and Hindi, signs newer than this Python.
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; it replaces `path` if the block succeeds.

    Raises
    ------
    OSError
        If the folder cannot be written to; `path` is unchanged then.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield draft
        draft.replace(path)
    except OSError as error:
        if error.filename in (None, str(draft)):  # name the file that the caller knows
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        draft.unlink(missing_ok=True)


_PACKAGES = ("cxr-sklearn", "scikit-learn", "keras", "numpy", "pillow", "skops")


def versions_here() -> dict[str, str]:
    """Return the versions of the packages on which scores depend, including the backend of Keras."""
    backend = keras_backend()
    try:
        found = f"{backend} {version(backend)}"
    except PackageNotFoundError:
        found = f"{backend}, which is not installed"
    return {name: version(name) for name in _PACKAGES} | {"Keras backend": found}


class ReadsEarlierFiles:
    """For estimators with new parameters: those that an older file lacks get their defaults.

    So the default of a new parameter must be the behaviour before it was added.
    """

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        parameters = list(inspect.signature(type(self).__init__).parameters.values())[1:]
        defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
        super().__setstate__({**defaults, **state})  # type: ignore[misc]


#: Larger files are not opened: this is enough for MAX_PIXELS of 4 bytes, uncompressed, and plenty of metadata.
MAX_BYTES = 200_000_000


def open_regular(path: str | bytes | os.PathLike[str], max_bytes: int = MAX_BYTES) -> io.BufferedReader:
    """Open a regular file of limited size; reading a named pipe or a device may never end."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags)
    facts = os.fstat(descriptor)
    if stat.S_ISREG(facts.st_mode) and facts.st_size <= max_bytes:
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(facts.st_mode):
        raise IsADirectoryError("a folder, not a file")
    if not stat.S_ISREG(facts.st_mode):
        raise OSError("a pipe, socket or device, not a file")
    raise OSError(f"{facts.st_size:,} bytes are more than the {max_bytes:,} allowed")


Class = TypeVar("Class", bound=type)


def public(cls: Class) -> Class:
    """Give a class its public path, ``cxr_sklearn.<name>``, so that saved models do not depend on its module."""
    cls.__module__ = "cxr_sklearn"
    return cls
