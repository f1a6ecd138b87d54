import errno
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxr_sklearn import balanced_subset, load_folder, load_frame, write_radiographs
from cxr_sklearn.datasets.audit import check
from cxr_sklearn.exceptions import CXRError, DataError

from ..conftest import write_image


def fill(root, *places):
    for place in places:
        write_image(root / place)
    return load_folder(root)


def test_a_row_per_image(tmp_path):
    frame = fill(tmp_path, "train/NORMAL/IM-0001-0001.jpeg", "test/PNEUMONIA/person1_virus_6.png", "val/normal/odd.bmp")
    assert frame.columns.tolist() == [
        "path", "label", "target", "split", "patient", "subtype", "width", "height", "mode",
    ]  # fmt: skip
    assert frame["split"].tolist() == ["test", "train", "val"]
    assert frame["label"].tolist() == ["pneumonia", "normal", "normal"]
    assert frame["target"].tolist() == [1, 0, 0]
    assert frame["target"].dtype == np.int64
    assert frame["patient"].tolist() == ["virus-1", "IM-0001", "val/normal/odd.bmp"]
    assert frame["subtype"].tolist()[0] == "virus"
    assert frame["subtype"].isna().tolist() == [False, True, True]
    assert frame[["width", "height", "mode"]].values.tolist() == [[8, 9, "L"]] * 3


@pytest.mark.parametrize("folder", ["NORMAL", "normal", "Normal"])
@pytest.mark.parametrize("sick", ["PNEUMONIA", "pneumonia", "Neumonia"])
def test_class_folders_in_any_case_and_in_spanish(tmp_path, folder, sick):
    frame = fill(tmp_path, f"Train/{folder}/a.png", f"Train/{sick}/b.png")
    assert sorted(frame["label"]) == ["normal", "pneumonia"]
    assert set(frame["split"]) == {"train"}


def test_a_folder_without_splits(tmp_path):
    frame = fill(tmp_path, "normal/a.png", "pneumonia/b.png")
    assert frame["split"].isna().all()


def test_junk_of_the_kaggle_archive_does_not_count(tmp_path):
    place = "train/NORMAL/IM-0001-0001.jpeg"
    frame = fill(
        tmp_path,
        f"chest_xray/{place}",
        f"chest_xray/chest_xray/{place}",
        f"chest_xray/__MACOSX/chest_xray/{place}",
        "chest_xray/train/NORMAL/._IM-0001-0001.jpeg",
        "chest_xray/train/NORMAL/.DS_Store",
    )
    assert frame["path"].tolist() == [str(tmp_path / "chest_xray" / place)]
    assert len(load_folder(tmp_path / "chest_xray")) == 1
    assert len(load_folder(tmp_path / "chest_xray" / "chest_xray")) == 1


def test_another_image_of_the_same_name_further_down_counts(tmp_path):
    write_image(tmp_path / "train/NORMAL/1.png", seed=1)
    write_image(tmp_path / "hospital B/train/NORMAL/1.png", seed=2)
    write_image(tmp_path / "hospital C/train/NORMAL/1.png", seed=1)
    assert [Path(path).parts[-4] for path in load_folder(tmp_path)["path"]] == ["hospital B", tmp_path.name]


def test_two_collections_side_by_side_both_count(tmp_path):
    frame = fill(tmp_path, "a/train/NORMAL/1.png", "b/train/NORMAL/1.png")
    assert frame["patient"].nunique() == 2


def test_files_that_cannot_be_opened_stay_in_the_table(tmp_path):
    write_image(tmp_path / "train/NORMAL/a.png")
    (tmp_path / "train/NORMAL/text.jpeg").write_text("not an image")
    (tmp_path / "train/NORMAL/notes.txt").write_text("not even called one")
    frame = load_folder(tmp_path)
    assert frame["width"].isna().tolist() == [False, True]


def test_sizes_can_be_left_out(tmp_path):
    write_image(tmp_path / "train/NORMAL/a.png")
    frame = load_folder(tmp_path, sizes=False)
    assert frame[["width", "height", "mode"]].isna().all(axis=None)
    assert frame.dtypes.equals(load_folder(tmp_path).dtypes)


@pytest.mark.parametrize("name", ["line\nbreak.png", "return\r.png", "\udcff.png"])
def test_names_that_cannot_be_printed_are_refused(tmp_path, name):
    write_image(tmp_path / "train" / "NORMAL" / name)
    with pytest.raises(DataError, match="cannot be printed"):
        load_folder(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "v\u00a013.05.png", "1.01\u202fPM.png", "\u80f8\u90e8\u3000\u6b63.png", "\u0645\u06cc\u200c\u0634.png",
        "e\u0301.png", "\U0001f469\u200d\u2695\ufe0f.png", "soft\u00adhyphen.png", "\ufeffmark.png",
        "line\u2028end.png", "\ue000own.png", "\U0001fffd.png",
    ],
)  # fmt: skip
def test_all_other_names_are_read_and_kept_in_tables(tmp_path, name):
    path = write_image(tmp_path / "train" / "NORMAL" / name)
    assert load_folder(tmp_path)["path"].tolist() == [path]
    (tmp_path / "labels.csv").write_text(f"path,label,patient\ntrain/NORMAL/{name},0,{name}\n", encoding="utf-8")
    assert load_frame(tmp_path / "labels.csv")[["path", "patient"]].values.tolist() == [[path, name]]


@pytest.mark.parametrize("name", ["\x1b[31m.png", "tab\t.png", "\x7f.png", "\x85.png", "\x9b31m.png"])
def test_more_names_that_are_refused(tmp_path, name):
    write_image(tmp_path / "train" / "NORMAL" / name)
    with pytest.raises(DataError, match="cannot be printed"):
        load_folder(tmp_path)


def test_a_link_back_up_counts_nothing_twice(tmp_path):
    write_image(tmp_path / "train" / "NORMAL" / "a.png")
    (tmp_path / "train" / "NORMAL" / "up").symlink_to(tmp_path)
    assert len(load_folder(tmp_path)) == 1


def test_what_is_reached_twice_counts_twice(tmp_path):
    """A split that is a link to another one is read, so that `check` finds the leak."""
    write_image(tmp_path / "train" / "NORMAL" / "a.png")
    (tmp_path / "test").symlink_to(tmp_path / "train")
    assert load_folder(tmp_path)["split"].tolist() == ["test", "train"]
    assert "1 group of identical files across splits" in " ".join(check(load_folder(tmp_path))["leaks"])


def test_links_to_each_other_come_to_an_end(tmp_path):
    for one, other in (("a", "b"), ("b", "a")):
        write_image(tmp_path / one / "normal" / f"{one}.png", seed=ord(one))
        (tmp_path / one / "link").symlink_to(tmp_path / other)
    assert len(load_folder(tmp_path)) == 4


def test_the_class_folder_itself(tmp_path, monkeypatch):
    write_image(tmp_path / "NORMAL" / "a.png")
    monkeypatch.chdir(tmp_path / "NORMAL")
    assert load_folder(".")["label"].tolist() == load_folder(tmp_path / "NORMAL")["label"].tolist() == ["normal"]


def test_images_that_are_left_out_are_reported(tmp_path):
    names = ("NORMAL/a.jfif", "NORMAL/sub/b.png", "COVID/c.png", "NORMAL/d.gif", "e.dcm", "NORMAL/.f.png")
    for i, name in enumerate(names):
        write_image(tmp_path / "train" / name, seed=i)
    (tmp_path / "train" / "NORMAL" / "notes.txt").write_text("no image")
    frame = load_folder(tmp_path)
    assert len(frame) == 2
    assert check(frame)["left_out"] == 3
    assert (
        "3 image files in no class folder, or of a kind that is not read, left out: train/COVID/c.png, "
        f"train/NORMAL/d.gif, {tmp_path.name}/train/e.dcm" in check(frame)["warnings"]
    )


def splits_of(root, *names):
    frame = fill(root, *names)
    assert frame["path"].tolist() == sorted(str(root / name) for name in names)
    return [(row.label, row.split if isinstance(row.split, str) else None) for row in frame.itertuples()]


@pytest.mark.parametrize(
    ("place", "label", "split"),
    [
        ("training/NORMAL", "normal", "train"),
        ("Testing/PNEUMONIA", "pneumonia", "test"),
        ("dev/NORMAL", "normal", "val"),
        ("train_set/NORMAL", "normal", "train"),
        ("Test-Data/NORMAL", "normal", "test"),
        ("trainset/NORMAL", "normal", "train"),
        ("train/site A/NORMAL", "normal", "train"),
        ("test/site A/ward 3/PNEUMONIA", "pneumonia", "test"),
        ("site A/train/NORMAL", "normal", "train"),
        ("train/NORMAL/patient 7", "normal", "train"),
        ("train/patient 7/NORMAL/study 1", "normal", "train"),
        ("NORMAL/train", "normal", "train"),
        ("NORMAL/test/site A", "normal", "test"),
        ("site A/PNEUMONIA/validation/patient 7", "pneumonia", "val"),
        ("test/train/NORMAL", "normal", "train"),  # a folder of trials
        ("NORMAL/site A", "normal", None),
        ("NORMAL/testimony", "normal", None),
        ("NORMAL/masked ball", "normal", None),
    ],
)
def test_layouts_that_people_have(tmp_path, place, label, split):
    assert splits_of(tmp_path, f"{place}/a.png") == [(label, split)]


def test_a_split_above_and_another_below_the_class_is_not_guessed_at(tmp_path):
    write_image(tmp_path / "train" / "NORMAL" / "test" / "a.png")
    with pytest.raises(DataError, match=r"train/NORMAL/test is in two splits by its name, train and test"):
        load_folder(tmp_path)


def test_masks_beside_the_images_of_a_class_are_left_out(tmp_path):
    frame = fill(tmp_path, "Normal/images/1.png", "Normal/masks/1.png", "Pneumonia/images/1.png")
    assert [Path(path).parts[-2] for path in frame["path"]] == ["images", "images"]
    assert frame.attrs["left_out"][0] == 1


def test_a_project_called_after_a_class_is_not_a_class_folder(tmp_path):
    write_image(tmp_path / "pneumonia" / "figures" / "roc.png")
    write_image(tmp_path / "pneumonia" / "data" / "NORMAL" / "a.png")
    for root in (tmp_path, tmp_path / "pneumonia"):
        frame = load_folder(root)
        assert frame["label"].tolist() == ["normal"]
        assert frame.attrs["left_out"][0] == 1


@pytest.mark.parametrize(
    "layout", ["{split}/site/{label}", "{label}/{split}", "site/{label}/{split}", "{split}ing/{label}"]
)
def test_a_subset_draws_from_its_own_split(tmp_path, layout):
    for split in ("train", "test"):
        for label in ("NORMAL", "PNEUMONIA"):
            for i in range(9):
                folder = tmp_path / layout.format(split=split, label=label)
                write_image(folder / f"{split} {i}.png", seed=i)
    drawn = balanced_subset(load_folder(tmp_path), 5, 4, 9, random_state=0)
    from_test = drawn["path"].map(lambda path: Path(path).name.startswith("test"))
    assert (from_test == (drawn["split"] == "test")).all()
    with pytest.raises(DataError, match="only 4 of 9 are left"):
        balanced_subset(load_folder(tmp_path), 5, 5, 9, random_state=0)


def test_dicom_without_a_suffix_is_passed_by_by_name(tmp_path):
    write_image(tmp_path / "NORMAL" / "a.png")
    for name in ("IM000001", "1.2.840.113619.2", "DICOMDIR"):
        (tmp_path / "NORMAL" / name).write_bytes(bytes(128) + b"DICM")
    (tmp_path / "NORMAL" / "README").write_text("no image")
    count, examples = load_folder(tmp_path).attrs["left_out"]
    assert (count, [Path(path).name for path in examples]) == (2, ["1.2.840.113619.2", "IM000001"])


def test_a_folder_that_cannot_be_read(tmp_path, monkeypatch):
    write_image(tmp_path / "NORMAL" / "a.png")
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("NORMAL"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match="NORMAL cannot be read: Permission denied"):
        load_folder(tmp_path)


@pytest.mark.parametrize("name", ["", "absent"])
def test_nothing_to_load(tmp_path, name):
    with pytest.raises(DataError, match=r"does not exist|holds no images") as caught:
        load_folder(tmp_path / name)
    assert isinstance(caught.value, CXRError | ValueError)


def test_written_radiographs_are_found_again(tmp_path):
    written = write_radiographs(tmp_path, 20, size=32, random_state=0).sort_values("path", ignore_index=True)
    pd.testing.assert_frame_equal(load_folder(tmp_path), written[load_folder(tmp_path).columns], check_dtype=False)


@pytest.mark.realdata
def test_the_real_folder(real_data):
    frame = load_folder(real_data / "chest_xray_224")
    counts = frame.groupby(["split", "label"]).size().to_dict()
    assert counts[("train", "normal")] == 1181
    assert counts[("train", "pneumonia")] == 3540
    assert counts[("test", "pneumonia")] == 177
    assert frame.drop_duplicates(["patient", "split"])["patient"].is_unique
    assert (frame["patient"].str.contains("/")).sum() == 0
    assert (frame[["width", "height"]] == 224).all(axis=None)
