"""Features kept on disk: one SQLite file per way of computing them, one checksummed row per image."""

from __future__ import annotations

import json
import os
import sqlite3
import warnings
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from hashlib import sha256
from pathlib import Path
from threading import get_ident
from typing import Any

import numpy as np
import platformdirs

from .database import open_database, transaction
from .digests import DigestIndex, hash_files
from .exceptions import StoreDamagedError

CACHE_VARIABLE = "CXR_SKLEARN_CACHE"
_SCHEMA = [
    "CREATE TABLE IF NOT EXISTS features (key BLOB PRIMARY KEY, crc32 INTEGER, row BLOB)",
    "CREATE TABLE IF NOT EXISTS recipe (json TEXT)",
]
_KEYS_PER_QUERY = 900  # SQLite before 3.32 takes 999 of them


def store_directory(store: str | os.PathLike[str]) -> Path:
    """Resolve "auto": ``$CXR_SKLEARN_CACHE``, else ``./cache`` where it exists, else the user's cache folder."""
    if store != "auto":
        return Path(store)
    if os.environ.get(CACHE_VARIABLE):
        return Path(os.environ[CACHE_VARIABLE])
    return Path("cache") if Path("cache").is_dir() else Path(platformdirs.user_cache_dir("cxr_sklearn"))


def fingerprint(recipe: Mapping[str, Any]) -> str:
    """Eight hexadecimal digits that stand for all that decides a feature row besides the image."""
    return sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:8]


class FeatureStore:
    """Feature rows by content key, safe against crashes, corruption and concurrent writers.

    The folder belongs on a disk of this machine: SQLite's write-ahead log does not work over a network. No connection
    is shared between threads or pickled, so a store can be used from any thread or process.

    Parameters
    ----------
    directory : path
        Created when it is first used.
    name : str
        What the features are, for people, e.g. ``"VGG16-avg"``.
    recipe : mapping
        All that decides the value of a row besides the image, as JSON would hold it.

    Attributes
    ----------
    path : Path
        The SQLite file, ``<directory>/<name>-<fingerprint of the recipe>.sqlite``.
    """

    def __init__(self, directory: str | os.PathLike[str], name: str, recipe: Mapping[str, Any]) -> None:
        self.path = Path(directory).absolute() / f"{name}-{fingerprint(recipe)}.sqlite"
        quoted = json.dumps(recipe, sort_keys=True).replace("'", "''")
        self._schema = [*_SCHEMA, f"INSERT INTO recipe VALUES ('{quoted}')"]
        self._kept: dict[int, sqlite3.Connection] = {}  # by thread

    def read(self, keys: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows there are; a row that fails its checksum counts as absent.

        Parameters
        ----------
        keys : sequence of n bytes

        Returns
        -------
        rows : ndarray of shape (n, d) and dtype float32
            Zeros where there is no row; d is 0 where there is none at all.
        found : ndarray of shape (n,) and dtype bool

        Raises
        ------
        StoreError
            If the file cannot be read.
        """
        try:
            return self._read(keys)
        except StoreDamagedError:
            warnings.warn(f"{self.path} was damaged and set aside; its features are computed again", stacklevel=2)
            return self._read(keys)

    def _read(self, keys: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
        place = {key: i for i, key in enumerate(dict.fromkeys(keys))}
        rows, found = np.zeros((len(place), 0), dtype=np.float32), np.zeros(len(place), dtype=bool)
        with open_database(self.path, self._schema) as connection:
            for known, block in _select(connection, place):
                if not rows.shape[1]:
                    rows = np.zeros((len(place), block.shape[1]), dtype=np.float32)
                places = [place[key] for key in known]
                rows[places], found[places] = block, True
        if len(place) == len(keys):
            return rows, found
        places = [place[key] for key in keys]
        return rows[places], found[places]

    @contextmanager
    def kept_open(self) -> Iterator[None]:
        """Let this thread's claims share a connection; whenever the last one is closed, SQLite empties its log."""
        with open_database(self.path, self._schema) as connection:
            self._kept[get_ident()] = connection
            try:
                yield
            finally:
                del self._kept[get_ident()]

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        if (kept := self._kept.get(get_ident())) is not None:
            yield kept  # what goes wrong with it is explained where it was opened
        else:
            with open_database(self.path, self._schema) as connection:
                yield connection

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_kept": {}}

    @contextmanager
    def claim(self, keys: Sequence[bytes]) -> Iterator[tuple[list[bytes], dict[bytes, np.ndarray]]]:
        """Hold the only right to write while the caller computes the missing rows.

        Processes that embed the same images take turns, batch by batch, so no image is embedded twice. The rows are
        written in one transaction when the block ends; a block that fails writes nothing.

        Yields
        ------
        missing : list of bytes
            Those of `keys` without a row, now that nobody else can write one.
        rows : dict of bytes to ndarray of shape (d,) and dtype float32
            The rows of the other keys; the caller adds the missing ones.

        Raises
        ------
        StoreError
            If the file cannot be written: a read-only folder, a full disk.
        """
        with self._connection() as connection, transaction(connection):
            rows = {
                key: row for known, block in _select(connection, keys) for key, row in zip(known, block, strict=True)
            }
            missing = [key for key in dict.fromkeys(keys) if key not in rows]
            yield missing, rows
            blobs = [(key, np.asarray(rows[key], dtype=np.float32).tobytes()) for key in missing if key in rows]
            connection.executemany(
                "INSERT OR REPLACE INTO features VALUES (?, ?, ?)",
                [(key, _checksum(key, blob), blob) for key, blob in blobs],
            )

    def width(self) -> int:
        """Return the number of features per row; 0 while the store does not tell."""
        with open_database(self.path, self._schema) as connection:
            first = connection.execute("SELECT key FROM features LIMIT 1").fetchone()
            return next((block.shape[1] for _, block in _select(connection, first or ())), 0)

    def digests(self, paths: Sequence[str]) -> list[bytes | OSError]:
        """Return the SHA-256 of each file, or the error reading it gave, remembered beside the store."""
        return DigestIndex(self.path.parent)(paths)

    def __len__(self) -> int:
        with open_database(self.path, self._schema) as connection:
            return int(connection.execute("SELECT count(*) FROM features").fetchone()[0])


class NoStore:
    """Stands where a store would and keeps nothing."""

    digests = staticmethod(hash_files)
    kept_open = staticmethod(nullcontext)

    def read(self, keys: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
        """Return no rows."""
        return np.zeros((len(keys), 0), dtype=np.float32), np.zeros(len(keys), dtype=bool)

    @contextmanager
    def claim(self, keys: Sequence[bytes]) -> Iterator[tuple[list[bytes], dict[bytes, np.ndarray]]]:
        """Yield all keys as missing and drop the rows."""
        yield list(keys), {}

    def width(self) -> int:
        """Return 0: unknown."""
        return 0


def _select(connection: sqlite3.Connection, keys: Iterable[bytes]) -> Iterator[tuple[list[bytes], np.ndarray]]:
    """Yield keys that have a row, some at a time, and their rows."""
    unique = list(dict.fromkeys(keys))
    for start in range(0, len(unique), _KEYS_PER_QUERY):
        chunk = unique[start : start + _KEYS_PER_QUERY]
        query = f"SELECT key, crc32, row FROM features WHERE key IN ({','.join('?' * len(chunk))})"
        # SQLite does not guard the types: a flipped bit can turn a blob into text or a number.
        sound = [(key, blob) for key, checksum, blob in connection.execute(query, chunk)
                 if type(key) is bytes and type(blob) is bytes and _checksum(key, blob) == checksum]  # fmt: skip
        if sound:
            block = np.frombuffer(b"".join(blob for _, blob in sound), dtype=np.float32)
            yield [key for key, _ in sound], block.reshape(len(sound), -1)


def _checksum(key: bytes, blob: bytes) -> int:
    return zlib.crc32(blob, zlib.crc32(key))
