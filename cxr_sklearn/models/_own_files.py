"""Which files are models of ours; no other file is replaced by one."""

from __future__ import annotations

from pathlib import Path

from .._io import open_regular
from ..exceptions import InputError
from .exported import MAX_BYTES, is_exported, metadata_of

#: What the files of :func:`save_model` begin with.
MAGIC = b"cxr_sklearn model\n"


def check_replaceable(path: Path) -> None:
    """Refuse a path for a model where there is something else.

    Raises
    ------
    InputError
        If there is a folder, or a file that is neither empty nor a model that this package wrote, of any version.
    OSError
        If the file that is there cannot be read.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder; give the model another name")
    if path.exists() and not _is_own(path):
        raise InputError(
            f"{path} exists and is not a model that cxr_sklearn wrote; choose another name, or move it away"
        )


def _is_own(path: Path) -> bool:
    if not path.is_file() or path.stat().st_size > MAX_BYTES:
        return False
    with open_regular(path, MAX_BYTES) as file:
        start = file.read(len(MAGIC))
        if start in (b"", MAGIC):  # a program may have made an empty file to have a name
            return True
        if not is_exported(path):
            return False
        try:
            metadata_of(start + file.read())
        except ValueError:
            return False
    return True
