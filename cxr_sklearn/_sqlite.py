"""SQLite databases that many processes use at once; errors become one clear StoreError."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .exceptions import StoreDamagedError, StoreError

log = logging.getLogger("cxr_sklearn")
#: A page of this size holds seven rows of 512 float32, one of SQLite's default size only one: half the bytes on disk.
_PAGE_SIZE = 16_384
#: Seconds after which a lock of another process is an error for a reader; a writer logs it, and goes on waiting.
_PATIENCE = 10
#: SQLite error codes that the environment causes (lock, permission, disk); any other means that the file is damaged.
_ENVIRONMENT = (
    *(sqlite3.SQLITE_AUTH, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_FULL, sqlite3.SQLITE_INTERRUPT),
    *(sqlite3.SQLITE_IOERR, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_PERM, sqlite3.SQLITE_PROTOCOL),
    sqlite3.SQLITE_READONLY,
)


@contextmanager
def open_database(path: Path, schema: Sequence[str]) -> Iterator[sqlite3.Connection]:
    """Open `path` in autocommit and write-ahead mode, so that readers never wait for a writer; text is read as bytes.

    If it does not exist, it is created with its folder, and the statements of `schema` create its tables.

    Raises
    ------
    StoreError
        If the file cannot be opened, read or written.
    StoreDamagedError
        If the file is damaged; it has been set aside, and the next call starts a new one.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(_explain(path, f"{error.strerror}: {path.parent}")) from error
    inode = _inode(path)
    try:
        connection = sqlite3.connect(path, timeout=_PATIENCE, isolation_level=None)
        connection.text_factory = bytes  # a damaged row may be marked as text, in any encoding
        try:
            _create_tables(connection, schema)
            yield connection
        finally:
            connection.close()
    except sqlite3.ProgrammingError:  # a mistake in the calling code, not in the file
        raise
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF in _ENVIRONMENT:
            raise StoreError(_explain(path, str(error))) from error
        _set_aside(path, inode)
        raise StoreDamagedError(f"{path} was damaged ({error}) and has been set aside; run again") from error


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None


def _set_aside(path: Path, inode: int | None) -> None:
    """Rename the damaged file, unless another process has done so and a new one is in its place."""
    if inode is not None and _inode(path) == inode:
        path.replace(path.with_suffix(".damaged"))
        for leftover in ("-wal", "-shm"):
            path.with_name(path.name + leftover).unlink(missing_ok=True)


def _create_tables(connection: sqlite3.Connection, schema: Sequence[str]) -> None:
    connection.execute("PRAGMA synchronous = NORMAL")
    if connection.execute("SELECT 1 FROM sqlite_master").fetchone():
        return
    connection.execute(f"PRAGMA page_size = {_PAGE_SIZE}")
    _execute_patiently(connection, "PRAGMA journal_mode = WAL")
    with transaction(connection):
        for statement in schema:
            connection.execute(statement)


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Take the write lock, and commit at the end; an error or a killed process leaves nothing behind."""
    _execute_patiently(connection, "BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):  # raise the original error rather than this one
            connection.execute("ROLLBACK")
        raise


def _execute_patiently(connection: sqlite3.Connection, statement: str) -> None:
    """Wait for a lock as long as it takes, several seconds at a time, so that Ctrl-C works in between.

    After the first of these times, a line in the log says which file it waits for.
    """
    has_logged = False
    while True:
        try:
            connection.execute(statement)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            if not has_logged:
                has_logged = True
                ((_, _, file),) = connection.execute("PRAGMA database_list").fetchall()
                # Not a warning, which a setting may turn into an error: waiting is no fault.
                log.warning("waiting for another process, which has locked %s", os.fsdecode(file))
        else:
            return


def _explain(path: Path, reason: str | None) -> str:
    return (
        f"cannot use the feature store {path}: {reason}; free or unlock that folder, or choose another one with "
        "$CXR_SKLEARN_CACHE, --store or store="
    )
