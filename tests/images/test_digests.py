import os
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from cxr_sklearn.images import _digests as digests
from cxr_sklearn.images._digests import hash_files, indexed_digests


@pytest.fixture
def files(tmp_path):
    """Two files that have not changed for long enough to be remembered."""
    paths = []
    for name in ("a", "b"):
        path = tmp_path / name
        path.write_text(name)
        os.utime(path, (1, 1))
        paths.append(str(path))
    return paths


@pytest.fixture
def index(tmp_path):
    return tmp_path / "store" / "digests.sqlite"


@pytest.fixture
def settled(monkeypatch):
    """Treat even a file that was just changed as settled: its change time cannot be set back."""
    monkeypatch.setattr(digests, "_SETTLED_NS", -(10**12))


@pytest.fixture
def hashed(monkeypatch):
    """Paths of the files that were read."""
    read = []
    hash_file = digests._hash_file
    monkeypatch.setattr(digests, "_hash_file", lambda path: read.append(os.fsdecode(path)) or hash_file(path))
    return read


def test_digests_are_those_of_the_bytes(files, index):
    assert indexed_digests(index, files) == [sha256(b"a").digest(), sha256(b"b").digest()]


def test_a_known_file_is_not_read_again(files, index, settled, hashed):
    first = indexed_digests(index, files)
    assert hashed == files
    assert indexed_digests(index, files) == first
    assert hashed == files


def test_a_file_changed_in_place_is_read_again(files, index, settled):
    indexed_digests(index, files)
    with open(files[0], "w") as file:  # noqa: PTH123
        file.write("c")
    os.utime(files[0], (1, 1))  # same size, same name, same modification time
    assert indexed_digests(index, files)[0] == sha256(b"c").digest()


def test_a_file_changed_a_moment_ago_is_not_trusted(files, index, hashed):
    indexed_digests(index, files)
    indexed_digests(index, files)
    assert hashed == files * 2


def test_a_damaged_index_is_made_anew(files, index, settled):
    expected = indexed_digests(index, files)
    sound = index.read_bytes()
    draw = np.random.default_rng(0)
    for at in [*range(0, 100, 9), *draw.integers(0, len(sound), 100)]:
        damaged = bytearray(sound)
        damaged[at] ^= 1 << draw.integers(8)
        for path in index.parent.iterdir():
            path.unlink()
        index.write_bytes(damaged)
        assert indexed_digests(index, files) == expected


def test_relative_paths_mean_the_present_folder(files, index, tmp_path, settled, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert indexed_digests(index, ["a"]) == [sha256(b"a").digest()]
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a").write_text("other")
    monkeypatch.chdir(tmp_path / "sub")
    assert indexed_digests(index, ["a"]) == [sha256(b"other").digest()]


def test_a_missing_file_gives_its_error_and_a_folder_too(files, index, tmp_path):
    absent, folder, known = indexed_digests(index, [str(tmp_path / "absent"), str(tmp_path), files[0]])
    assert isinstance(absent, FileNotFoundError)
    assert isinstance(folder, IsADirectoryError)
    assert known == sha256(b"a").digest()


def test_many_files_are_taken_in_parts(index, tmp_path, monkeypatch):
    paths = [str(tmp_path / f"{i}.bin") for i in range(7)]
    for i, path in enumerate(paths):
        Path(path).write_bytes(b"%d" % i)
    whole = indexed_digests(index, paths)
    monkeypatch.setattr("cxr_sklearn.images._digests._PATHS_AT_ONCE", 3)
    assert indexed_digests(index, paths) == hash_files(paths) == whole
    assert len(set(whole)) == 7
