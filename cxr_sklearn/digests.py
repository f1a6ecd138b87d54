"""SHA-256 of files, remembered beside the feature store so that a warm run reads no image again."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .database import open_database, transaction

_SCHEMA = ["CREATE TABLE IF NOT EXISTS digests (path TEXT PRIMARY KEY, state TEXT, sha256 BLOB)"]
_PATHS_PER_QUERY = 1_000
#: A file changed this recently may change again within one tick of the file system's clock.
_SETTLED_NS = 2_000_000_000


def hash_files(paths: Sequence[str]) -> list[bytes | OSError]:
    """Return the SHA-256 of each file's bytes, or the error that reading it gave."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(_hash_file, paths))


def _hash_file(path: str) -> bytes | OSError:
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        return error


class DigestIndex:
    """Digests of files by path, size, times and inode, the way git's index does it.

    Parameters
    ----------
    directory : Path
        Holds ``digests.sqlite``.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / "digests.sqlite"

    def __call__(self, paths: Sequence[str]) -> list[bytes | OSError]:
        """Return the SHA-256 of each file's bytes, or the error that reading it gave.

        Raises
        ------
        StoreError
            If the index cannot be read or written.
        """
        # A digest keyed by a relative path would be found again from another working directory.
        paths = [os.path.abspath(path) for path in paths]  # noqa: PTH100 - Path.absolute costs ten times as much
        states = {path: _state(path) for path in paths}
        with open_database(self.path, _SCHEMA) as connection:
            known: dict[str, bytes] = {}
            for chunk in _chunks(states):
                query = f"SELECT path, state, sha256 FROM digests WHERE path IN ({','.join('?' * len(chunk))})"
                known |= {path: sha for path, state, sha in connection.execute(query, chunk) if state == states[path]}
            unknown = [path for path in states if path not in known]
            fresh = dict(zip(unknown, hash_files(unknown), strict=True))
            settled = [(path, states[path], sha) for path, sha in fresh.items() if states[path] and type(sha) is bytes]
            if settled:
                with transaction(connection):
                    connection.executemany("INSERT OR REPLACE INTO digests VALUES (?, ?, ?)", settled)
        return [known.get(path) or fresh[path] for path in paths]


def _chunks(paths: Iterable[str]) -> Iterable[list[str]]:
    listed = list(paths)
    return (listed[i : i + _PATHS_PER_QUERY] for i in range(0, len(listed), _PATHS_PER_QUERY))


def _state(path: str) -> str:
    """Describe the file's present state; empty where it is missing or too fresh to be remembered."""
    try:
        stat = os.stat(path)  # noqa: PTH116 - called for every image of a run
    except OSError:
        return ""
    if max(stat.st_mtime_ns, stat.st_ctime_ns) > time.time_ns() - _SETTLED_NS:
        return ""
    return f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns} {stat.st_ino}"
