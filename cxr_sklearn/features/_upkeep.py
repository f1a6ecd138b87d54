"""Upkeep of a feature store: what is in it, whether it is sound, and what can never be used again.

Only files that :func:`is_store_file` recognises by their names and by the tables in them, and those that were damaged
and set aside, are ever changed or deleted.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..exceptions import StoreError
from ..images._decoding import DECODER
from ..images._digests import DIGESTS, is_current
from ._backbones import RANDOM_SEED, applications
from ._image_stats import DESCRIPTORS, RECIPE
from .store import STORE_FILE, fingerprint, is_store_file, row_is_sound

_DAMAGED = re.compile(r"(.+-[0-9a-f]{8}|digests)\.damaged")
_MAGIC = b"SQLite format 3\0"
#: What the recipe of every FrozenEmbedder holds.
_OF_A_NETWORK = {"backbone", "layer", "pooling", "precision", "weights"}
#: SQLite's files beside a database: what was not written into it yet, and an index of that.
_BESIDE = ("-wal", "-shm")


@dataclass(frozen=True)
class StoreFile:
    """A file of a store.

    Attributes
    ----------
    path : Path
    name : str
        Of the network, layer and pooling, or of what else was measured.
    recipe : dict
        Everything that a row depends on besides the image; empty for digests and damaged files.
    n_rows, n_lost : int
        Images, and how many of their rows can never be used again.
    n_bytes : int
    written : float
        When it was last written, in seconds since 1970.
    lost : str or None
        Why nothing in the file can ever be used again.
    fault : str or None
        What is wrong with it.
    """

    path: Path
    name: str
    recipe: dict[str, Any]
    n_rows: int
    n_lost: int
    n_bytes: int
    written: float
    lost: str | None = None
    fault: str | None = None


def survey(folder: Path, *, thorough: bool = False) -> list[StoreFile]:
    """Return the files of the store in a folder; `thorough` reads every row, and adds files that are not readable.

    Raises
    ------
    OSError
        If the folder cannot be read.
    """
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    files = [_look_at(path, thorough) for path in paths if is_store_file(path) or _was_set_aside(path)]
    return files + [_unreadable(path) for path in strangers(folder) if thorough and _is_called_as_ours(path)]


def _is_called_as_ours(path: Path) -> bool:
    return bool(path.name == DIGESTS or STORE_FILE.fullmatch(path.name)) and path.is_file() and not path.is_symlink()


def _unreadable(path: Path) -> StoreFile:
    fault = "it is not a feature store, or is damaged beyond recognition; move it elsewhere"
    stat = path.stat()
    return StoreFile(path, path.stem, {}, 0, 0, stat.st_size, stat.st_mtime, fault=fault)


def strangers(folder: Path) -> list[Path]:
    """Return what else is in the folder of a store, sorted."""
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    ours = {path for path in paths if is_store_file(path) or _was_set_aside(path)}
    beside = {path.with_name(path.name + end) for path in ours for end in _BESIDE}
    return [path for path in paths if path not in ours | beside]


def prune(folder: Path) -> list[str]:
    """Remove what can never be used again, and say what was removed.

    Raises
    ------
    StoreError
        If a file is in use or cannot be written.
    """
    said = []
    for file in survey(folder, thorough=True):
        if file.lost:
            remove(file.path)
            said.append(f"{file.path.name}: removed, because {file.lost}")
        elif file.n_lost:
            _remove_rows(file.path)
            said.append(f"{file.path.name}: {file.n_lost:,} of {file.n_rows:,} rows removed")
    return said


def remove(path: Path) -> None:
    """Remove a file of a store, unless another program has it open.

    Raises
    ------
    StoreError
        If it is not ours or is in use.
    """
    if _was_set_aside(path):
        path.unlink()
        return
    if not is_store_file(path):
        raise StoreError(f"{path} is not a file of a feature store, and stays")
    with _in_use_explained(path), _opened(path) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")
    # The last program that closes a database removes its log.
    if path.with_name(f"{path.name}-wal").exists():
        raise StoreError(f"{path} is in use; end the program that uses it, and try again")
    path.unlink()


def _was_set_aside(path: Path) -> bool:
    if not _DAMAGED.fullmatch(path.name) or path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def _look_at(path: Path, thorough: bool) -> StoreFile:
    places = [path, *(path.with_name(path.name + end) for end in _BESIDE)]
    stats = [place.stat() for place in places if place.exists()]
    match = STORE_FILE.fullmatch(path.name)
    name = match["name"] if match else path.stem
    file = StoreFile(path, name, {}, 0, 0, sum(stat.st_size for stat in stats), max(stat.st_mtime for stat in stats))
    if match is None and path.name != DIGESTS:
        return replace(file, lost="it was damaged and set aside")
    try:
        with _opened(path) as connection:
            if match is None:
                lost = _lost_digests(connection)
                return replace(file, n_rows=_count(connection, "digests"), n_lost=len(lost))
            n_rows = _count(connection, "features")
            recipe = _recipe(connection)
            lost = _unsound_rows(connection) if thorough else []
    except sqlite3.Error as error:
        return replace(file, fault=f"it cannot be read: {error}")
    reason = _why_lost(match, recipe)
    fault = f"{len(lost):,} of {n_rows:,} rows are damaged; their features are computed again" if lost else None
    file = replace(file, recipe=recipe, n_rows=n_rows, n_lost=n_rows if reason else len(lost), lost=reason)
    return replace(file, fault=None if reason else fault)


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    """Open an existing database; one that may not be written to is read as it is."""
    how = "mode=rw" if os.access(path, os.W_OK) and os.access(path.parent, os.W_OK) else "immutable=1"
    address = f"{path.absolute().as_uri()}?{how}"
    with closing(sqlite3.connect(address, uri=True, timeout=1, isolation_level=None)) as connection:
        connection.text_factory = bytes
        yield connection


@contextmanager
def _in_use_explained(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise StoreError(
            f"{path} cannot be changed now ({error}); end the programs that use it, and try again"
        ) from error


def _count(connection: sqlite3.Connection, table: str) -> int:
    return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def _recipe(connection: sqlite3.Connection) -> dict[str, Any]:
    row = connection.execute("SELECT json FROM recipe").fetchone()
    try:
        recipe = json.loads(row[0]) if row else {}
    except (TypeError, ValueError):
        return {}
    return recipe if isinstance(recipe, dict) else {}


def _why_lost(match: re.Match[str], recipe: dict[str, Any]) -> str | None:
    """Return why no estimator of this version looks into a file of features, if none does."""
    if fingerprint(recipe) != match["fingerprint"]:
        return "its name does not fit its content, so nothing looks into it"
    if match["name"] == DESCRIPTORS:
        return None if fingerprint(recipe) == fingerprint(RECIPE) else "another version measured other things"
    if not set(recipe) >= _OF_A_NETWORK:  # a store that somebody made for features of their own
        return None
    if recipe["backbone"] not in applications():
        return f"there is no network {recipe['backbone']!r}"
    if recipe.get("decoder") != DECODER:
        return "images are decoded differently now"
    weights = str(recipe.get("weights"))
    if weights.startswith("random:") and weights != f"random:{RANDOM_SEED}":
        return "its random weights are drawn with another seed now"
    return None


def _unsound_rows(connection: sqlite3.Connection) -> list[int]:
    rows = connection.execute("SELECT rowid, key, crc32, row FROM features")
    return [number for number, *row in rows if not row_is_sound(*row)]


def _lost_digests(connection: sqlite3.Connection) -> list[int]:
    rows = connection.execute("SELECT rowid, path, digest FROM digests")
    return [number for number, path, digest in rows if not is_current(path, digest)]


def _remove_rows(path: Path) -> None:
    table, find = ("digests", _lost_digests) if path.name == DIGESTS else ("features", _unsound_rows)
    with _in_use_explained(path), _opened(path) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(f"DELETE FROM {table} WHERE rowid = ?", [(number,) for number in find(connection)])
        connection.execute("COMMIT")
        connection.execute("VACUUM")
