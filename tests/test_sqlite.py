"""A database that another process has locked is waited for, and the user is told."""

import sqlite3
import threading

import pytest

from cxr_sklearn import _sqlite
from cxr_sklearn._sqlite import open_database, transaction

SCHEMA = ["CREATE TABLE numbers (number INTEGER)"]


def test_a_writer_that_waits_says_for_which_file(tmp_path, monkeypatch):
    path = tmp_path / "gr\u00fcn.sqlite"
    with open_database(path, SCHEMA):
        pass
    monkeypatch.setattr(_sqlite, "_PATIENCE", 0.05)
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    release = threading.Timer(0.5, other.execute, ["COMMIT"])
    release.start()
    told = pytest.warns(UserWarning, match=f"waiting for another process, which has locked .*{path.name}$")
    with told as noted, open_database(path, SCHEMA) as connection, transaction(connection):
        connection.execute("INSERT INTO numbers VALUES (1)")
    release.join()
    other.close()
    assert len(noted) == 1  # however often it tried
    with open_database(path, SCHEMA) as connection:
        assert connection.execute("SELECT number FROM numbers").fetchall() == [(1,)]
