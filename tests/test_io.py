import errno
import os
from pathlib import Path

import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from cxr_sklearn import FeatureStore, ImageLoader, ShortcutFeatures, load_folder, load_frame, write_radiographs
from cxr_sklearn._io import atomic_write, user_path
from cxr_sklearn.exceptions import InputError
from cxr_sklearn.features.store import store_directory
from cxr_sklearn.images._walk import image_paths
from cxr_sklearn.models.files import check_saveable
from cxr_sklearn.study.recipes import load_recipe


def test_the_file_is_replaced_at_the_end(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with atomic_write(path) as draft:
        draft.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_what_was_there_and_says_where(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fill_the_disk():
        with atomic_write(path) as draft:
            draft.write_text("half")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match=r"No space left on device.*a\.txt"):
        fill_the_disk()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder, and another folder to work in."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_the_home_folder(home):
    assert user_path("~") == home
    assert user_path("~/a") == user_path(Path("~/a")) == user_path(user_path("~/a")) == home / "a"
    assert user_path("a/~/b") == Path("a/~/b")
    assert user_path("~nobody-of-this-name.png") == Path("~nobody-of-this-name.png")


def test_a_folder_that_is_really_called_tilde(home):
    assert user_path("./~/a") == user_path(user_path("./~/a")) == Path.cwd() / "~" / "a"


def test_a_user_without_a_home(monkeypatch):
    monkeypatch.setattr(os.path, "expanduser", str)  # as it does for a number without an account
    with pytest.raises(InputError, match=r"~/runs: the home folder that ~ stands for is not known"):
        user_path("~/runs")
    assert user_path("runs") == Path("runs")


def test_every_place_takes_a_tilde(home, monkeypatch):
    write_radiographs("~/rx", 10, size=32, random_state=0)
    frame = load_folder("~/rx", sizes=False)
    image = frame["path"][0]
    short = image.replace(str(home), "~")
    assert image.startswith(str(home))
    (home / "labels.csv").write_text(f"path,label\n{short},0\n")
    assert load_frame("~/labels.csv")["path"].tolist() == [image]
    assert ImageLoader(size=8).transform([short]).keys == ImageLoader(size=8).transform([image]).keys
    assert image_paths(["~/rx/test"])[0].startswith(str(home))
    assert image_paths([short]) == [image]
    assert FeatureStore("~/store", "x", {}).path.parent == store_directory("~/store") == home / "store"
    monkeypatch.setenv("CXR_SKLEARN_CACHE", "~/cache")
    assert store_directory("auto") == home / "cache"
    (home / "mine.py").write_text("def build():\n    pass\n")
    assert load_recipe("~/mine.py").name == "mine"
    check_saveable(make_pipeline(ShortcutFeatures(), LogisticRegression()), "~/models/mine.skops")
    assert (home / "models").is_dir()
    assert not Path("~").exists()
