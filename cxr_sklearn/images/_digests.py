"""SHA-256 of files, remembered beside the feature store so that a warm run reads no image again."""

from __future__ import annotations

import hashlib
import os
import time
import zlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .._io import open_regular
from .._sqlite import open_database, transaction
from ..exceptions import StoreDamagedError

_SCHEMA = ["CREATE TABLE IF NOT EXISTS digests (path BLOB PRIMARY KEY, digest BLOB)"]
_PATHS_PER_QUERY = 900
#: What is known of a file meanwhile takes some times the memory of its digest.
_PATHS_AT_ONCE = 8_000
#: A file changed this recently may change again within one tick of the file system's clock.
_SETTLED_NS = 2_000_000_000


def hash_files(paths: Sequence[str] | Sequence[bytes]) -> list[bytes | OSError]:
    """Return the SHA-256 of each file's bytes, or the error that reading it gave."""
    with ThreadPoolExecutor() as pool:
        parts = (paths[i : i + _PATHS_AT_ONCE] for i in range(0, len(paths), _PATHS_AT_ONCE))
        return [digest for part in parts for digest in pool.map(_hash_file, part)]


def _hash_file(path: str | bytes) -> bytes | OSError:
    try:
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        return error
    except ValueError as error:  # a null byte in the name
        return OSError(str(error))


class DigestIndex:
    """Digests of files by path, size, times and inode, the way git's index does it; each row with a checksum.

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
        parts = (paths[i : i + _PATHS_AT_ONCE] for i in range(0, len(paths), _PATHS_AT_ONCE))
        return [digest for part in parts for digest in self._patiently(part)]

    def _patiently(self, paths: Sequence[str]) -> list[bytes | OSError]:
        try:
            return self._digests(paths)
        except StoreDamagedError:  # nothing is lost but time: the files are read again
            return self._digests(paths)

    def _digests(self, paths: Sequence[str]) -> list[bytes | OSError]:
        # A digest keyed by a relative path would be found again from another working directory.
        absolute = [os.fsencode(os.path.abspath(path)) for path in paths]  # noqa: PTH100 - Path.absolute is far slower
        states = {path: _state(path) for path in absolute}
        with open_database(self.path, _SCHEMA) as connection:
            known: dict[bytes, bytes] = {}
            for chunk in _chunks(states):
                query = f"SELECT path, digest FROM digests WHERE path IN ({','.join('?' * len(chunk))})"
                for path, digest in connection.execute(query, chunk):
                    if type(digest) is bytes and digest == _sealed(path, states.get(path, b""), digest[:32]):
                        known[path] = digest[:32]
            unknown = [path for path in states if path not in known]
            fresh = dict(zip(unknown, hash_files(unknown), strict=True))
            settled = [
                (path, _sealed(path, states[path], sha))
                for path, sha in fresh.items()
                if states[path] and isinstance(sha, bytes)
            ]
            if settled:
                with transaction(connection):
                    connection.executemany("INSERT OR REPLACE INTO digests VALUES (?, ?)", settled)
        return [known.get(path) or fresh[path] for path in absolute]


def _sealed(path: bytes, state: bytes, sha: bytes) -> bytes:
    """Digest and a checksum over it, the path and the file's state: a row of another state or a flipped bit differs."""
    return sha + zlib.crc32(b"\0".join((path, state, sha))).to_bytes(4)


def _chunks(paths: Iterable[bytes]) -> Iterable[list[bytes]]:
    listed = list(paths)
    return (listed[i : i + _PATHS_PER_QUERY] for i in range(0, len(listed), _PATHS_PER_QUERY))


def _state(path: bytes) -> bytes:
    """Describe the file's present state; empty where it is missing or too fresh to be remembered."""
    try:
        stat = os.stat(path)  # noqa: PTH116 - called for every image of a run
    except (OSError, ValueError):
        return b""
    if max(stat.st_mtime_ns, stat.st_ctime_ns) > time.time_ns() - _SETTLED_NS:
        return b""
    return f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns} {stat.st_ino}".encode()
