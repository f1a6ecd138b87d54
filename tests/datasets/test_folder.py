import numpy as np
import pandas as pd
import pytest

from cxr_sklearn import load_folder, write_radiographs
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


def test_a_link_back_up_counts_nothing_twice(tmp_path):
    write_image(tmp_path / "train" / "NORMAL" / "a.png")
    (tmp_path / "train" / "NORMAL" / "up").symlink_to(tmp_path)
    assert len(load_folder(tmp_path)) == 1


@pytest.mark.parametrize("name", ["", "absent"])
def test_nothing_to_load(tmp_path, name):
    with pytest.raises(DataError, match=r"is not a folder|holds no images") as caught:
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
