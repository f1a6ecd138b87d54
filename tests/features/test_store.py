import os
import pickle
import resource
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from cxr_sklearn import FeatureStore
from cxr_sklearn.exceptions import CXRError, StoreError
from cxr_sklearn.features.store import fingerprint, is_store_file, store_directory

RECIPE = {"backbone": "it's", "layer": None}


def keys_of(n):
    return [sha256(bytes([i])).digest() for i in range(n)]


def fill(store, keys, width=16):
    with store.claim(keys) as (missing, rows):
        rows.update({key: np.frombuffer(key * (width // 8), dtype=np.float32)[:width] for key in missing})
    return missing


@pytest.fixture
def store(tmp_path):
    return FeatureStore(tmp_path / "store", "net", RECIPE)


def test_rows_come_back_in_the_order_asked_for(store):
    keys = keys_of(9)
    fill(store, keys[:8])
    rows, found = store.read([keys[3], keys[8], keys[0], keys[3]])
    assert found.tolist() == [True, False, True, True]
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows[0], np.frombuffer(keys[3] * 2, dtype=np.float32))
    np.testing.assert_array_equal(rows[0], rows[3])
    assert not rows[1].any()
    assert (len(store), store.width()) == (8, 16)


def test_an_empty_store_knows_nothing(store):
    rows, found = store.read(keys_of(3))
    assert rows.shape == (3, 0)
    assert not found.any()
    assert (len(store), store.width()) == (0, 0)


def test_more_keys_than_one_query_takes(store):
    keys = [sha256(i.to_bytes(4)).digest() for i in range(2_500)]
    fill(store, keys, width=8)
    assert store.read(keys)[1].all()


def test_only_missing_keys_are_claimed(store):
    keys = keys_of(4)
    assert fill(store, keys[:2]) == keys[:2]
    assert fill(store, [*keys, keys[3]]) == keys[2:]


def test_a_failing_claim_writes_nothing(store):
    keys = keys_of(2)

    def fail():
        with store.claim(keys) as (_, rows):
            rows[keys[0]] = np.ones(4, dtype=np.float32)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert len(store) == 0
    assert fill(store, keys) == keys


def test_each_recipe_has_its_own_file(tmp_path):
    other = FeatureStore(tmp_path, "net", {**RECIPE, "layer": "block4_pool"})
    assert other.path != FeatureStore(tmp_path, "net", RECIPE).path
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert other.path.name == f"net-{fingerprint({**RECIPE, 'layer': 'block4_pool'})}.sqlite"


def test_a_store_can_be_pickled(store):
    fill(store, keys_of(3))
    assert len(pickle.loads(pickle.dumps(store))) == 3


def test_a_flipped_byte_makes_a_row_absent_and_is_healed(store):
    keys = keys_of(5)
    fill(store, keys)
    original, _ = store.read(keys)
    at = store.path.read_bytes().index(original[2].tobytes())
    with store.path.open("r+b") as file:
        file.seek(at + 7)
        byte = file.read(1)
        file.seek(at + 7)
        file.write(bytes([byte[0] ^ 1]))
    assert store.read(keys)[1].tolist() == [True, True, False, True, True]
    assert fill(store, keys) == [keys[2]]
    np.testing.assert_array_equal(store.read(keys)[0], original)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*damaged and set aside")
def test_a_flipped_bit_anywhere_in_the_file_is_healed(store):
    """Wherever it is, in a row, an index or the schema: no wrong row is read, and all rows can be written again."""
    keys = keys_of(40)
    fill(store, keys)
    original, _ = store.read(keys)
    sound = store.path.read_bytes()
    draw = np.random.default_rng(0)
    for at in [*range(0, 100, 7), *draw.integers(0, len(sound), 400)]:
        damaged = bytearray(sound)
        damaged[at] ^= 1 << draw.integers(8)
        for path in store.path.parent.iterdir():
            path.unlink()
        store.path.write_bytes(damaged)
        rows, found = store.read(keys)
        assert not found.any() or np.array_equal(rows[found], original[found], equal_nan=True)
        try:
            fill(store, keys)
        except StoreError as error:
            assert "run again" in str(error)  # noqa: PT017
            fill(store, keys)
        np.testing.assert_array_equal(store.read(keys)[0], original)


def test_a_healed_file_is_not_set_aside_by_a_late_comer(store):
    from cxr_sklearn._sqlite import _inode, _set_aside

    fill(store, keys_of(2))
    seen = _inode(store.path)
    _set_aside(store.path, seen)
    fill(store, keys_of(3))
    _set_aside(store.path, seen)
    assert len(store) == 3


def test_a_file_that_is_not_a_database_is_set_aside(store):
    fill(store, keys_of(2))
    store.path.write_bytes(b"rubbish" * 1000)
    with pytest.warns(UserWarning, match="damaged and set aside; its features are computed again"):
        assert not store.read(keys_of(2))[1].any()
    assert store.path.with_suffix(".damaged").exists()
    assert fill(store, keys_of(2)) == keys_of(2)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"Not a directory: .*CXR_SKLEARN_CACHE") as caught:
        FeatureStore(tmp_path / "file" / "store", "net", RECIPE).read([])
    assert isinstance(caught.value, CXRError | OSError)


def test_a_full_disk_keeps_what_was_finished(store):
    keys = keys_of(200)
    fill(store, keys[:50], width=512)
    # A limit on the size of files simulates a full disk; SQLite sees the same failing write.
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (store.path.stat().st_size, before[1]))
    try:
        with pytest.raises(StoreError, match="cannot use the feature store"):
            fill(store, keys[50:], width=512)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert len(store) == 50
    assert len(fill(store, keys, width=512)) == 150


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can become somebody without rights")
def test_a_read_only_folder_gives_one_clear_error(tmp_path):
    code = f"""
import os
from cxr_sklearn import FeatureStore
from cxr_sklearn.exceptions import StoreError
import cxr_sklearn._sqlite
os.setuid(65534)
try:
    FeatureStore({str(tmp_path / "store")!r}, "net", {{}}).read([])
except StoreError as error:
    print(error)
"""
    tmp_path.chmod(0o555)
    for parent in tmp_path.parents[:3]:
        if parent != Path("/tmp"):
            parent.chmod(0o755)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Permission denied" in done.stdout
    assert done.stdout.count("\n") == 1


def test_two_processes_share_the_work(tmp_path):
    """Rows that were written twice would have a higher rowid."""
    code = f"""
import sys, time
import numpy as np
from hashlib import sha256
from cxr_sklearn import FeatureStore
store = FeatureStore({str(tmp_path)!r}, "net", {{}})
keys = [sha256(bytes([i])).digest() for i in range(200)]
for start in range(0, 200, 4):
    with store.claim(keys[start:start + 4]) as (missing, rows):
        rows.update({{key: np.frombuffer(key, dtype=np.float32) for key in missing}})
"""
    workers = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(3)]
    assert [worker.wait() for worker in workers] == [0, 0, 0]
    store = FeatureStore(tmp_path, "net", {})
    keys = keys_of(200)
    rows, found = store.read(keys)
    assert found.all()
    np.testing.assert_array_equal(rows, [np.frombuffer(key, dtype=np.float32) for key in keys])
    with sqlite3.connect(store.path) as connection:
        assert connection.execute("SELECT max(rowid) FROM features").fetchone() == (200,)
    connection.close()


def test_killed_in_the_middle_of_a_claim(tmp_path):
    code = f"""
import os, sys
import numpy as np
from hashlib import sha256
from cxr_sklearn import FeatureStore
store = FeatureStore({str(tmp_path)!r}, "net", {{}})
keys = [sha256(bytes([i])).digest() for i in range(20)]
for start in (0, 10):
    with store.claim(keys[start:start + 10]) as (missing, rows):
        rows.update({{key: np.frombuffer(key, dtype=np.float32) for key in missing}})
        if start:
            os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    store = FeatureStore(tmp_path, "net", {})
    assert store.read(keys_of(20))[1].tolist() == [True] * 10 + [False] * 10
    assert fill(store, keys_of(20)) == keys_of(20)[10:]


def test_where_the_store_lies(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert store_directory("there") == Path("there")
    monkeypatch.setenv("CXR_SKLEARN_CACHE", "elsewhere")
    assert store_directory("auto") == Path("elsewhere")
    monkeypatch.delenv("CXR_SKLEARN_CACHE")
    assert store_directory("auto").is_absolute()
    (tmp_path / "cache").mkdir()
    assert store_directory("auto").is_absolute()
    fill(FeatureStore("cache", "net", RECIPE), keys_of(1))
    assert store_directory("auto") == Path("cache")


@pytest.mark.parametrize("name", ["other.sqlite", "other-0123abcd.sqlite", "digests.sqlite"])
def test_a_cache_of_another_program_is_not_taken_for_a_store(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CXR_SKLEARN_CACHE")
    (tmp_path / "cache").mkdir()
    with closing(sqlite3.connect(tmp_path / "cache" / name)) as connection:
        connection.execute("CREATE TABLE responses (url TEXT)")
    (tmp_path / "cache" / "text-0123abcd.sqlite").write_text("not even a database")
    assert store_directory("auto").is_absolute()


def test_a_link_to_a_store_is_not_one(tmp_path):
    store = FeatureStore(tmp_path, "net", RECIPE)
    fill(store, keys_of(1))
    assert is_store_file(store.path)
    link = store.path.with_name("link-0123abcd.sqlite")
    link.symlink_to(store.path)
    assert not is_store_file(link)


@pytest.mark.parametrize("home", ["~/.cache", RuntimeError("no home")])
def test_a_user_without_a_home(tmp_path, monkeypatch, home):
    """Versions of platformdirs differ in what they do then."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CXR_SKLEARN_CACHE")

    def user_cache_dir(name):
        if isinstance(home, Exception):
            raise home
        return home

    monkeypatch.setattr("platformdirs.user_cache_dir", user_cache_dir)
    with pytest.raises(StoreError, match=r"no home folder.*\$CXR_SKLEARN_CACHE"):
        store_directory("auto")
    monkeypatch.setenv("CXR_SKLEARN_CACHE", str(tmp_path / "store"))
    assert store_directory("auto") == tmp_path / "store"


def test_a_folder_that_cannot_be_made_is_named_with_the_way_out(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"file.*\$CXR_SKLEARN_CACHE"):
        FeatureStore(tmp_path / "file" / "store", "net", RECIPE).read(keys_of(1))


def test_claims_share_the_connection_that_is_kept_open(store, monkeypatch):
    opened = []
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **k: opened.append(connect(*a, **k)) or opened[-1])
    with store.kept_open():
        assert pickle.loads(pickle.dumps(store)).path == store.path  # as a worker gets it
        for key in (b"a", b"b"):
            with store.claim([key]) as (missing, rows):
                rows.update({key: np.ones(3) for key in missing})
        with pytest.raises(ZeroDivisionError), store.claim([b"c"]) as (_, rows):
            rows[b"c"] = np.ones(3) / (1 // 0)
        with store.claim([b"d"]) as (missing, rows):  # the failed one has released the write lock
            rows[b"d"] = np.ones(3)
    assert len(opened) == 1
    with store.claim([b"a", b"b", b"c", b"d"]) as (missing, _):
        assert missing == [b"c"]
    assert len(opened) == 2
