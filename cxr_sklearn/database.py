"""SQLite opened for many processes at once; its errors come out as one clear StoreError."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .exceptions import StoreError

#: Seven rows of 512 float32 fit one page of this size, one fits SQLite's default: half the bytes on disk.
_PAGE_SIZE = 16_384


@contextmanager
def open_database(path: Path, schema: Sequence[str]) -> Iterator[sqlite3.Connection]:
    """Open `path` in autocommit and write-ahead mode, so that readers never wait for a writer.

    Parameters
    ----------
    path : Path
        Created with its folder where it does not exist.
    schema : sequence of str
        Statements that create the tables of a new file.

    Raises
    ------
    StoreError
        If the file cannot be opened, read or written. A file that is no longer a database is set aside.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(_explain(path, f"{error.strerror}: {path.parent}")) from error
    try:
        connection = sqlite3.connect(path, timeout=1, isolation_level=None)
        try:
            _create_tables(connection, schema)
            yield connection
        finally:
            connection.close()
    except sqlite3.OperationalError as error:
        raise StoreError(_explain(path, str(error))) from error
    except sqlite3.DatabaseError as error:
        damaged = path.rename(path.with_suffix(".damaged"))
        raise StoreError(f"{path} is damaged ({error}) and was renamed to {damaged.name}; run again") from error


def _create_tables(connection: sqlite3.Connection, schema: Sequence[str]) -> None:
    connection.execute("PRAGMA synchronous = NORMAL")
    if connection.execute("SELECT 1 FROM sqlite_master").fetchone():
        return
    connection.execute(f"PRAGMA page_size = {_PAGE_SIZE}")
    execute_patiently(connection, "PRAGMA journal_mode = WAL")
    with transaction(connection):
        for statement in schema:
            connection.execute(statement)


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Hold the only right to write, and commit at the end; an error or a killed process leaves nothing behind."""
    execute_patiently(connection, "BEGIN IMMEDIATE")
    yield
    connection.execute("COMMIT")


def execute_patiently(connection: sqlite3.Connection, statement: str) -> None:
    """Wait for a lock in turns of a second, as long as it takes, so that Ctrl-C is heard meanwhile."""
    while True:
        try:
            connection.execute(statement)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
        else:
            return


def _explain(path: Path, reason: str | None) -> str:
    return (
        f"cannot use the feature store {path}: {reason}; free or unlock that folder, or name another one with "
        "$CXR_SKLEARN_CACHE or store="
    )
