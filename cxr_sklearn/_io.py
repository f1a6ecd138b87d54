"""Files that are wholly written or not at all, and the versions that they name."""

from __future__ import annotations

import inspect
import io
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

from ._keras import keras_backend


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; it takes the place of `path` when the block ends well.

    Raises
    ------
    OSError
        If the folder cannot be written to; what stood at `path` is still there then.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield draft
        draft.replace(path)
    except OSError as error:
        if error.filename in (None, str(draft)):  # a full disk does not say where, and nobody asked for a draft
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        draft.unlink(missing_ok=True)


_PACKAGES = ("cxr-sklearn", "scikit-learn", "keras", "numpy", "pillow", "skops")


def versions_here() -> dict[str, str]:
    """Return the versions of what scores depend on, the backend of Keras among them."""
    backend = keras_backend()
    try:
        found = f"{backend} {version(backend)}"
    except PackageNotFoundError:
        found = f"{backend}, which is not installed"
    return {name: version(name) for name in _PACKAGES} | {"Keras backend": found}


class ReadsEarlierFiles:
    """For estimators that have gained parameters: a file of before they had them gives each its default.

    So a new parameter's default must be what was done before there was a choice.
    """

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """Take the attributes of a saved estimator."""
        parameters = list(inspect.signature(type(self).__init__).parameters.values())[1:]
        defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
        super().__setstate__({**defaults, **state})  # type: ignore[misc]


#: Larger files are not opened: MAX_PIXELS of 4 bytes each, not compressed, and as much metadata as anyone needs.
MAX_BYTES = 200_000_000


def open_regular(path: str | bytes | os.PathLike[str]) -> io.BufferedReader:
    """Open a file that can hold an image: reading a named pipe or a device may never come to an end."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags)
    facts = os.fstat(descriptor)
    if stat.S_ISREG(facts.st_mode) and facts.st_size <= MAX_BYTES:
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(facts.st_mode):
        raise IsADirectoryError("a folder, not a file")
    if not stat.S_ISREG(facts.st_mode):
        raise OSError("a pipe, socket or device, not a file")
    raise OSError(f"{facts.st_size:,} bytes are more than the {MAX_BYTES:,} allowed")


Class = TypeVar("Class", bound=type)


def public(cls: Class) -> Class:
    """Give a class its public path, ``cxr_sklearn.<name>``: that is what saved models call it, wherever its file is."""
    cls.__module__ = "cxr_sklearn"
    return cls
