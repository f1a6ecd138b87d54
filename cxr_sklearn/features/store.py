"""Features kept on disk, one SQLite file per fingerprint, and the loop that computes missing rows."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sqlite3
import sys
import warnings
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from hashlib import sha256
from pathlib import Path
from threading import get_ident
from typing import Any

import numpy as np
import platformdirs
from joblib import Parallel, delayed, effective_n_jobs
from joblib.parallel import get_active_backend

from .._io import public, user_path
from .._sqlite import open_database, transaction
from .._validation import checks_types
from ..exceptions import ImageReadError, StoreDamagedError, StoreError
from ..images._digests import DIGESTS, hash_files, indexed_digests
from ..images.batch import ImageBatch

CACHE_VARIABLE = "CXR_SKLEARN_CACHE"
_SCHEMA = [
    "CREATE TABLE IF NOT EXISTS features (key BLOB PRIMARY KEY, crc32 INTEGER, row BLOB)",
    "CREATE TABLE IF NOT EXISTS recipe (json TEXT)",
]
_KEYS_PER_QUERY = 900  # SQLite before 3.32 takes at most 999


def store_directory(store: str | os.PathLike[str]) -> Path:
    """Resolve "auto": ``$CXR_SKLEARN_CACHE``, else ``./cache`` if it is a store, else the user's cache folder.

    Raises
    ------
    StoreError
        If the user has no home folder, as in a container that runs under a number without an account.
    """
    if store != "auto":
        return user_path(store)
    if os.environ.get(CACHE_VARIABLE):
        return user_path(os.environ[CACHE_VARIABLE])
    if any(map(is_store_file, Path("cache").glob("*.sqlite"))):  # other programs have folders of this name, too
        return Path("cache")
    with contextlib.suppress(RuntimeError):
        folder = Path(platformdirs.user_cache_dir("cxr_sklearn"))
        if folder.is_absolute():  # and not below a folder called ~
            return folder
    raise StoreError(
        "the user has no home folder in which features could be kept; name a folder for them in $CXR_SKLEARN_CACHE, or "
        "with --store or store="
    )


#: What the files of a store are called: the name of the features and the fingerprint of their recipe.
STORE_FILE = re.compile(r"(?P<name>.+)-(?P<fingerprint>[0-9a-f]{8})\.sqlite")


def is_store_file(path: Path) -> bool:
    """Whether this package wrote a file: by its name and by the tables in it. A link is not such a file."""
    wanted = (
        {"digests"} if path.name == DIGESTS else {"features", "recipe"} if STORE_FILE.fullmatch(path.name) else None
    )
    if wanted is None or path.is_symlink() or not path.is_file():
        return False
    for how in ("mode=rw", "immutable=1"):  # the second is for folders that may not be written to
        address = f"{path.absolute().as_uri()}?{how}"
        with contextlib.suppress(sqlite3.Error), closing(sqlite3.connect(address, uri=True)) as connection:
            found = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            return wanted <= {name for (name,) in found}
    return False


def fingerprint(recipe: Mapping[str, Any]) -> str:
    """Return eight hexadecimal digits of the hash of everything that a feature row depends on besides the image."""
    return sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:8]


@public
class FeatureStore:
    """Feature rows by content key, safe against crashes, corruption and concurrent writers.

    The folder must be on a disk of this machine: SQLite's write-ahead log does not work over a network. Connections are
    neither shared between threads nor pickled, so a store can be used from any thread or process.

    Parameters
    ----------
    directory : path
        Created when it is first used.
    name : str
        What the features are, for human readers, e.g. ``"VGG16-avg"``.
    recipe : mapping
        Everything that a row depends on besides the image, as JSON can hold it.

    Attributes
    ----------
    path : Path
        The SQLite file, ``<directory>/<name>-<fingerprint of the recipe>.sqlite``.
    """

    @checks_types
    def __init__(self, directory: str | os.PathLike[str], name: str, recipe: Mapping[str, Any]) -> None:
        self.path = user_path(directory).absolute() / f"{name}-{fingerprint(recipe)}.sqlite"
        quoted = json.dumps(recipe, sort_keys=True).replace("'", "''")
        self._schema = [*_SCHEMA, f"INSERT INTO recipe VALUES ('{quoted}')"]
        self._kept: dict[int, sqlite3.Connection] = {}  # by thread

    def read(self, keys: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows that exist; a row that fails its checksum counts as missing.

        Parameters
        ----------
        keys : sequence of n bytes

        Returns
        -------
        rows : ndarray of shape (n, d) and dtype float32
            Zeros where there is no row; d is 0 if no key has a row.
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
        """Let this thread's claims share a connection: SQLite empties its log whenever the last one is closed."""
        with open_database(self.path, self._schema) as connection:
            self._kept[get_ident()] = connection
            try:
                yield
            finally:
                del self._kept[get_ident()]

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        if (kept := self._kept.get(get_ident())) is not None:
            yield kept  # its errors are explained where it was opened
        else:
            with open_database(self.path, self._schema) as connection:
                yield connection

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_kept": {}}

    @contextmanager
    def claim(self, keys: Sequence[bytes]) -> Iterator[tuple[list[bytes], dict[bytes, np.ndarray]]]:
        """Hold the write lock while the caller computes the missing rows.

        Processes that embed the same images take turns, batch by batch, so no image is embedded twice. The rows are
        written in one transaction when the block ends; a block that fails writes nothing.

        Yields
        ------
        missing : list of bytes
            The keys without a row, which no other process can write now.
        rows : dict of bytes to ndarray of shape (d,) and dtype float32
            The rows of the other keys; the caller adds the missing ones.

        Raises
        ------
        StoreError
            If the file cannot be written, in a read-only folder or on a full disk, say.
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
        """Return the number of features per row, 0 while the store is empty."""
        with open_database(self.path, self._schema) as connection:
            first = connection.execute("SELECT key FROM features LIMIT 1").fetchone()
            return next((block.shape[1] for _, block in _select(connection, first or ())), 0)

    def digests(self, paths: Sequence[str]) -> list[bytes | OSError]:
        """Return the SHA-256 of each file, or the error on reading it; digests are remembered beside the store."""
        return indexed_digests(self.path.parent / DIGESTS, paths)

    def __len__(self) -> int:
        with open_database(self.path, self._schema) as connection:
            return int(connection.execute("SELECT count(*) FROM features").fetchone()[0])


class NoStore:
    """A store that keeps nothing."""

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
    """Yield, some at a time, the keys that have a row, and their rows."""
    unique = list(dict.fromkeys(keys))
    for start in range(0, len(unique), _KEYS_PER_QUERY):
        chunk = unique[start : start + _KEYS_PER_QUERY]
        query = f"SELECT key, crc32, row FROM features WHERE key IN ({','.join('?' * len(chunk))})"
        found = connection.execute(query, chunk)
        sound = [(key, blob) for key, checksum, blob in found if row_is_sound(key, checksum, blob)]
        if sound:
            block = np.frombuffer(b"".join(blob for _, blob in sound), dtype=np.float32)
            yield [key for key, _ in sound], block.reshape(len(sound), -1)


def row_is_sound(key: object, checksum: object, blob: object) -> bool:
    """Whether a row is as it was written."""
    # SQLite does not enforce types: a flipped bit can turn a blob into text or a number.
    return type(key) is bytes and type(blob) is bytes and _checksum(key, blob) == checksum


def _checksum(key: bytes, blob: bytes) -> int:
    return zlib.crc32(blob, zlib.crc32(key))


#: From the k images of a chunk and their decoded pixels, each ``uint8 (H, W, 3)``, to rows ``float32 (k, d)``.
Compute = Callable[[ImageBatch, list[np.ndarray]], np.ndarray]
#: The rows of some images, how many of them this process computed (and not another one meanwhile), and how many images
#: were tried.
Computed = Generator[tuple[dict[bytes, np.ndarray], int, int]]
#: A worker gets at most so many chunks at a time: enough to decode one while it computes another, but few, because they
#: are lost if it dies.
_CHUNKS_AT_ONCE = 8


def readable_rows(
    batch: ImageBatch,
    store: FeatureStore | NoStore,
    compute: Compute,
    *,
    chunk_size: int,
    advance: Callable[[int], None] = lambda steps: None,
    n_jobs: int | None = None,
) -> tuple[np.ndarray, int, dict[str, str]]:
    """Return a feature row per image, ``float32 (n, d)``, the number of images computed, and why some have no features.

    Images are decoded ahead in threads and computed in chunks; a finished chunk is in the store before the next one
    starts. Images with equal content keys are computed once. `n_jobs` workers of the joblib backend share the missing
    images; they only compute, and the caller writes. `advance` is called with numbers of finished images, for a
    progress bar.

    The row of an image that cannot be read is zeros, and the reason is found by its path; d is 0 if none can be read.
    """
    batch = batch.pinned(store.digests)
    keys, failures = batch.content_keys()
    rows, found = store.read([key or b"" for key in keys])
    pending: dict[bytes, list[int]] = {}
    for i in np.flatnonzero(~found).tolist():
        if (key := keys[i]) is not None:
            pending.setdefault(key, []).append(i)
    advance(len(batch) - len(pending))
    n_computed = 0
    n_workers = 1 if _is_worker() else min(effective_n_jobs(n_jobs), -(-len(pending) // chunk_size))
    missing, wanted = list(pending), batch[np.array([first for first, *_ in pending.values()], dtype=np.intp)]
    work = missing, wanted, store, compute, chunk_size, failures
    computing = _compute(*work) if n_workers <= 1 else _share_out(*work, n_workers)
    with closing(computing), store.kept_open() if pending else nullcontext():
        for fresh, n, n_tried in computing:
            for key, row in fresh.items():
                if rows.shape[1] == 0:
                    rows = np.zeros((len(batch), len(row)), dtype=np.float32)
                rows[pending[key]] = row
            n_computed += n
            advance(n_tried)
    for first, *others in pending.values():
        if reason := failures.get(batch.name(first)):
            failures |= {batch.name(i): reason for i in others}
    return rows, n_computed, failures


def _compute(
    keys: list[bytes],
    wanted: ImageBatch,
    store: FeatureStore | NoStore,
    compute: Compute,
    chunk_size: int,
    failures: dict[str, str],
) -> Computed:
    for start, chunk in zip(range(0, len(keys), chunk_size), wanted.decode_ahead(chunk_size), strict=True):
        readable: dict[bytes, tuple[int, np.ndarray]] = {}
        for i, pixels in enumerate(chunk, start):
            if isinstance(pixels, ImageReadError):
                failures |= pixels.failures
            else:
                readable[keys[i]] = (i, pixels)
        with store.claim(list(readable)) as (missing, rows):
            if missing:
                places, images = zip(*(readable[key] for key in missing), strict=True)
                rows.update(zip(missing, compute(wanted[list(places)], list(images)), strict=True))
        yield rows, len(missing), len(chunk)


def _share_out(
    keys: list[bytes],
    wanted: ImageBatch,
    store: FeatureStore | NoStore,
    compute: Compute,
    chunk_size: int,
    failures: dict[str, str],
    n_workers: int,
) -> Computed:
    n_chunks = -(-len(keys) // chunk_size)
    step = chunk_size * min(max(n_chunks // (4 * n_workers), 1), _CHUNKS_AT_ONCE)
    shares = [slice(start, start + step) for start in range(0, len(keys), step)]
    tasks = (delayed(readable_rows)(wanted[share], NoStore(), compute, chunk_size=chunk_size) for share in shares)
    # Backends without generators, such as Ray's, give all answers at the end.
    return_as = "generator" if get_active_backend()[0].supports_return_generator else "list"
    answers = Parallel(n_jobs=n_workers, batch_size=1, return_as=return_as)(tasks)
    for share, (rows, _, failed) in zip(shares, answers, strict=True):
        failures |= failed
        images = range(len(keys))[share]
        computed = {keys[i]: row for i, row in zip(images, rows, strict=True) if wanted.name(i) not in failed}
        with store.claim(list(computed)) as (missing, kept):
            kept |= {key: computed[key] for key in missing}
        yield kept, len(missing), len(images)


def _is_worker() -> bool:
    """Whether this runs on a Dask worker, where nested parallelism would distribute the same images again."""
    if "distributed" not in sys.modules:
        return False
    try:
        sys.modules["distributed"].get_worker()
    except ValueError:
        return False
    return True
