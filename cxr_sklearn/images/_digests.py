"""SHA-256 of files, saved beside the feature store so that another run need not read the images again."""

from __future__ import annotations

import hashlib
import os
import time
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .._io import open_regular
from .._sqlite import open_database, transaction
from ..exceptions import StoreDamagedError

#: The file beside the features.
DIGESTS = "digests.sqlite"
_SCHEMA = ["CREATE TABLE IF NOT EXISTS digests (path BLOB PRIMARY KEY, digest BLOB)"]
_PATHS_PER_QUERY = 900
#: Paths are processed in parts, because their intermediate data need several times the memory of the digests.
_PATHS_AT_ONCE = 8_000
#: A file that was changed this recently may change again within the same tick of the file system's clock.
_SETTLED_NS = 2_000_000_000


def hash_files(paths: Sequence[str] | Sequence[bytes]) -> list[bytes | OSError]:
    """Return the SHA-256 of each file, or the error from reading it."""
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


def indexed_digests(index: Path, paths: Sequence[str]) -> list[bytes | OSError]:
    """Return the SHA-256 of each file, or the error from reading it; files that the index knows are not read again.

    It is an SQLite file of digests by path, size, times and inode, as in git's index; each row has a checksum.
    """
    digests = []
    for start in range(0, len(paths), _PATHS_AT_ONCE):
        part = paths[start : start + _PATHS_AT_ONCE]
        try:
            digests += _digests(index, part)
        except StoreDamagedError:  # the damaged index was set aside; a new one only takes time
            digests += _digests(index, part)
    return digests


def _digests(index: Path, paths: Sequence[str]) -> list[bytes | OSError]:
    # A relative path would mean another file in another working directory.
    absolute = [os.fsencode(os.path.abspath(path)) for path in paths]  # noqa: PTH100 - Path.absolute is far slower
    states = {path: _state(path) for path in absolute}
    with open_database(index, _SCHEMA) as connection:
        known: dict[bytes, bytes] = {}
        for start in range(0, len(absolute), _PATHS_PER_QUERY):
            chunk = absolute[start : start + _PATHS_PER_QUERY]
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


def is_current(path: object, digest: object) -> bool:
    """Whether a row of the index is of a file that is still there and has not changed."""
    if type(path) is not bytes or type(digest) is not bytes:
        return False
    return digest == _sealed(path, _state(path), digest[:32])


def _sealed(path: bytes, state: bytes, sha: bytes) -> bytes:
    """Return the digest with a checksum of it, the path and the file's state, which reveals a change of any of them."""
    return sha + zlib.crc32(b"\0".join((path, state, sha))).to_bytes(4)


def _state(path: bytes) -> bytes:
    """Describe the file's present state; empty if it is missing or was changed too recently."""
    try:
        stat = os.stat(path)  # noqa: PTH116 - called for every image of a run
    except (OSError, ValueError):
        return b""
    if max(stat.st_mtime_ns, stat.st_ctime_ns) > time.time_ns() - _SETTLED_NS:
        return b""
    return f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns} {stat.st_ino}".encode()
