import numpy as np
import pandas as pd
import pytest

from cxr_sklearn import balanced_subset, load_folder, write_radiographs
from cxr_sklearn.datasets import patient_of
from cxr_sklearn.exceptions import CXRError, DataError

from .conftest import write_image


def fill(root, *places):
    for place in places:
        write_image(root / place)
    return load_folder(root)


@pytest.mark.parametrize(
    ("name", "patient", "subtype"),
    [
        ("person1_bacteria_1.jpeg", "bacteria-1", "bacteria"),
        ("person1_virus_6.jpeg", "virus-1", "virus"),
        ("person1946_bacteria_4875.jpeg", "bacteria-1946", "bacteria"),
        ("person441_bacteria_1918_2.jpeg", "bacteria-441", "bacteria"),
        ("PERSON7_VIRUS_12.JPG", "virus-7", "virus"),
        ("IM-0115-0001.jpeg", "IM-0115", None),
        ("IM-0011-0001-0002.jpeg", "IM-0011", None),
        ("NORMAL2-IM-0115-0001.jpeg", "NORMAL2-IM-0115", None),
        ("NORMAL2-IM-1020-0001-0001.jpeg", "NORMAL2-IM-1020", None),
        ("person_bacteria_1.jpeg", None, None),
        ("person12_fungus_3.jpeg", None, None),
        ("IM-0115.jpeg", None, None),
        ("my-IM-0115-0001.jpeg", None, None),
    ],
)
def test_patients_by_name(name, patient, subtype):
    assert patient_of(name) == (patient, subtype)


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


class TestBalancedSubset:
    @pytest.fixture
    def frame(self):
        """Sixty patients of two images each per class in train, ten in test; names as in the Kaggle set."""
        rows = [
            {"path": f"{split}/{label}/{patient}-{i}", "label": label, "target": target, "split": split,
             "patient": f"{split}{label}{patient}"}
            for split, n in (("train", 60), ("test", 10))
            for target, label in enumerate(("normal", "pneumonia"))
            for patient in range(n)
            for i in range(2)
        ]  # fmt: skip
        return pd.DataFrame(rows)

    def test_equally_many_of_both_classes_and_no_patient_twice(self, frame):
        drawn = balanced_subset(frame, 31, 20, 7, random_state=0)
        counts = drawn.groupby(["split", "target"]).size()
        assert counts.to_dict() == {
            ("train", 0): 31, ("train", 1): 31, ("val", 0): 20, ("val", 1): 20, ("test", 0): 7, ("test", 1): 7
        }  # fmt: skip
        assert drawn.groupby("patient")["split"].nunique().max() == 1
        assert drawn["path"].is_monotonic_increasing
        assert not drawn["path"].duplicated().any()
        official = frame.set_index("path").loc[drawn["path"], "split"].to_numpy()
        assert (official[drawn["split"] == "test"] == "test").all()
        assert (official[drawn["split"] != "test"] == "train").all()

    def test_the_seed_decides(self, frame):
        first = balanced_subset(frame, 10, 10, 5, random_state=1)
        pd.testing.assert_frame_equal(balanced_subset(frame, 10, 10, 5, random_state=1), first)
        assert set(balanced_subset(frame, 10, 10, 5, random_state=2)["path"]) != set(first["path"])

    def test_all_of_test(self, frame):
        assert (balanced_subset(frame, 10, 10, None)["split"] == "test").sum() == 40

    def test_a_patient_that_would_be_in_two_splits(self, frame):
        with pytest.raises(DataError, match="would be in two splits, everybody among them"):
            balanced_subset(frame.assign(patient="everybody"), 10, 0, 10)

    @pytest.mark.parametrize("n", [-5, 2.5])
    def test_what_is_no_number_of_images(self, frame, n):
        with pytest.raises(DataError, match=f"val={n}"):
            balanced_subset(frame, 10, n)

    def test_too_few(self, frame):
        with pytest.raises(DataError, match=r"5 pneumonia images .* but 0 of 0 are left"):
            balanced_subset(frame[frame["target"] == 0], 5, 0, None)
        with pytest.raises(DataError, match=r"120 normal images of patients in no other split.*as val"):
            balanced_subset(frame, 120, 120, None)
        with pytest.raises(DataError, match=r"21 normal images .* as test, but 20 of 20 are left"):
            balanced_subset(frame, 10, 10, 21)
