import errno
import os
import shutil
from hashlib import sha256
from pathlib import Path

import pandas as pd
import pytest

from cxr_sklearn import balanced_subset, load_folder
from cxr_sklearn.datasets.audit import check
from cxr_sklearn.datasets.folder import load_frame
from cxr_sklearn.datasets.splits import write_subset
from cxr_sklearn.exceptions import DataError, ImageReadError, InputError

from ..conftest import write_image


@pytest.fixture
def root(tmp_path):
    for i in range(12):
        split = "test" if i >= 8 else "train"
        write_image(tmp_path / "set" / split / "NORMAL" / f"IM-{i:04d}-0001.png", seed=i)
        write_image(tmp_path / "set" / split / "PNEUMONIA" / f"person{i}_virus_{i}.png", seed=100 + i)
    return tmp_path / "set"


def drawn_from(root, **options):
    return balanced_subset(load_folder(root), 4, 2, 3, random_state=0, **options)


def test_a_folder_of_links_with_its_manifest(root, tmp_path):
    drawn = drawn_from(root)
    assert write_subset(drawn, tmp_path / "out") == "hard links"
    found = load_folder(tmp_path / "out")
    assert found.groupby(["split", "label"]).size().tolist() == [3, 3, 4, 4, 2, 2]
    assert sorted(found["patient"]) == sorted(drawn["patient"])
    assert all(Path(path).stat().st_nlink == 2 for path in found["path"])
    manifest = pd.read_csv(tmp_path / "out" / "manifest.csv")
    assert manifest["path"].is_monotonic_increasing
    for path, digest in zip(manifest["path"], manifest["sha256"], strict=True):
        assert sha256((tmp_path / "out" / path).read_bytes()).hexdigest() == digest
    again = load_frame(tmp_path / "out" / "manifest.csv")
    assert again.pop("sha256").notna().all()  # a further column, which is kept
    pd.testing.assert_frame_equal(again, found)


def test_twice_gives_the_same_manifest(root, tmp_path):
    for name in ("a", "b", "a"):
        write_subset(drawn_from(root), tmp_path / name)
    assert (tmp_path / "a/manifest.csv").read_bytes() == (tmp_path / "b/manifest.csv").read_bytes()


def test_another_subset_takes_the_place_of_an_earlier_one(root, tmp_path):
    write_subset(drawn_from(root), tmp_path / "out")
    other = balanced_subset(load_folder(root), 3, 1, 2, random_state=9)
    write_subset(other, tmp_path / "out")
    assert len(load_folder(tmp_path / "out")) == 12


def test_a_run_that_broke_off_is_taken_up_again(root, tmp_path, monkeypatch):
    monkeypatch.setattr("cxr_sklearn.datasets.splits._link", fails_after(5))
    with pytest.raises(OSError, match="disk full"):
        write_subset(drawn_from(root), tmp_path / "out")
    monkeypatch.undo()
    write_subset(drawn_from(root), tmp_path / "out")
    assert len(load_folder(tmp_path / "out")) == 18


def fails_after(n):
    from cxr_sklearn.datasets.splits import _link

    calls = []

    def link(*arguments):
        calls.append(arguments)
        if len(calls) > n:
            raise OSError("disk full")
        return _link(*arguments)

    return link


@pytest.mark.parametrize(("failing", "how"), [(["link"], "soft links"), (["link", "symlink"], "copies")])
def test_where_links_do_not_work(root, tmp_path, monkeypatch, failing, how):
    def refuse(*arguments, **options):
        raise OSError(errno.EXDEV, "not on this file system")

    for name in failing:
        monkeypatch.setattr(os, name, refuse)
    assert write_subset(drawn_from(root), tmp_path / "out") == how
    monkeypatch.undo()
    found = [Path(path) for path in load_folder(tmp_path / "out")["path"]]
    assert len(found) == 18
    assert all(path.is_symlink() == (how == "soft links") for path in found)
    assert all(path.stat().st_nlink == 1 for path in found)


def test_other_errors_do_not_lead_to_a_copy(root, tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise OSError(errno.EIO, "broken disk")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(OSError, match="broken disk"):
        write_subset(drawn_from(root), tmp_path / "out")


def test_links_lead_to_the_file_itself(root, tmp_path, monkeypatch):
    monkeypatch.setattr("cxr_sklearn.datasets.splits._link", lambda source, target, how: target.symlink_to(source))
    (tmp_path / "linked").symlink_to(root)
    write_subset(drawn_from(tmp_path / "linked"), tmp_path / "out")
    (tmp_path / "linked").unlink()
    assert load_folder(tmp_path / "out")["width"].notna().all()


def test_nothing_but_a_subset_is_replaced(root, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    write_subset(drawn_from(root), out)
    (out / "train" / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match=r"for example .*notes.txt; choose another folder"):
        write_subset(drawn_from(root), out)
    assert (out / "train" / "notes.txt").read_text() == "mine"
    with pytest.raises(DataError, match="contains more than a subset"):
        write_subset(drawn_from(root), root)
    assert len(load_folder(root)) == 24
    with pytest.raises(DataError, match="contains the images to draw from"):
        write_subset(drawn_from(out := whole_subset(root, tmp_path)), out)


def test_the_images_themselves_are_never_taken_away(root, tmp_path, monkeypatch):
    """A subset is recognised however its path is written; a user's own table is not taken for one."""
    out = whole_subset(root, tmp_path)
    (tmp_path / "link").symlink_to(out)
    monkeypatch.chdir(tmp_path)
    for source, directory in (("whole", out), (out, "whole"), ("whole/train", out), (out, "link"), ("link", out)):
        frame = load_folder(source).assign(split="train")
        with pytest.raises(DataError, match="choose another folder"):
            write_subset(frame, directory)
    assert len(load_folder(out)) == 24
    mine = tmp_path / "mine"
    write_image(mine / "train" / "NORMAL" / "a.png")
    (mine / "manifest.csv").write_text("path,label\ntrain/NORMAL/a.png,normal\n")
    with pytest.raises(DataError, match="is not the list of a subset"):
        write_subset(drawn_from(root), mine)
    assert (mine / "train" / "NORMAL" / "a.png").exists()


def test_unknown_patients_stay_unknown(tmp_path):
    for i in range(4):
        write_image(tmp_path / "set" / "train" / ("NORMAL" if i % 2 else "PNEUMONIA") / f"{i}.png", seed=i)
    frame = load_folder(tmp_path / "set")
    write_subset(frame, tmp_path / "out")
    assert pd.read_csv(tmp_path / "out/manifest.csv")["patient"].isna().all()
    assert check(load_frame(tmp_path / "out/manifest.csv"))["patients_unknown"] == 4


def test_what_cannot_be_written(root, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        write_subset(drawn_from(root), tmp_path / "file")
    with pytest.raises(DataError, match="nothing to write"):
        write_subset(load_folder(root).assign(split=None), tmp_path / "out")
    with pytest.raises(DataError, match="must be one of train"):
        write_subset(load_folder(root).assign(split="../x"), tmp_path / "out")


def test_hidden_files_do_not_matter(root, tmp_path):
    write_subset(drawn_from(root), tmp_path / "out")
    (tmp_path / "out" / "train" / ".DS_Store").write_text("")
    write_subset(drawn_from(root), tmp_path / "out")


def whole_subset(root, tmp_path):
    """A subset that is large enough to draw another subset from it."""
    write_subset(load_folder(root), tmp_path / "whole")
    return tmp_path / "whole"


def test_an_invalid_manifest(root, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "manifest.csv").write_text("name\nmine\n")
    with pytest.raises(DataError, match="is not the list of a subset"):
        write_subset(drawn_from(root), out)


def test_two_images_of_one_name(root, tmp_path):
    shutil.copytree(root, tmp_path / "both" / "a")
    shutil.copytree(root, tmp_path / "both" / "b")
    with pytest.raises(DataError, match=r"two images would become test/NORMAL/IM-0008-0001.png; rename"):
        write_subset(load_folder(tmp_path / "both"), tmp_path / "out")


def test_a_file_that_is_gone(root, tmp_path):
    drawn = drawn_from(root)
    Path(drawn["path"].iloc[3]).unlink()
    with pytest.raises(ImageReadError, match="1 of 18 images cannot be read"):
        write_subset(drawn, tmp_path / "out")
    assert not (tmp_path / "out").exists()
