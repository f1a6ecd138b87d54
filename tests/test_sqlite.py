"""A database that another process has locked is waited for, and the user is told."""

import sqlite3
import threading

from cxr_sklearn import _sqlite
from cxr_sklearn._sqlite import open_database, transaction

SCHEMA = ["CREATE TABLE numbers (number INTEGER)"]


def test_a_writer_that_waits_says_for_which_file(tmp_path, monkeypatch, caplog):
    path = tmp_path / "gr\u00fcn.sqlite"
    with open_database(path, SCHEMA):
        pass
    monkeypatch.setattr(_sqlite, "_PATIENCE", 0.05)
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    release = threading.Timer(0.5, other.execute, ["COMMIT"])
    release.start()
    with open_database(path, SCHEMA) as connection, transaction(connection):
        connection.execute("INSERT INTO numbers VALUES (1)")
    release.join()
    other.close()
    (message,) = caplog.messages  # however often it tried
    assert message == f"waiting for another process, which has locked {path}"
    with open_database(path, SCHEMA) as connection:
        assert connection.execute("SELECT number FROM numbers").fetchall() == [(1,)]
