from pathlib import Path

import pandas as pd
import pytest

from cxr_sklearn import balanced_subset
from cxr_sklearn.datasets.splits import group_split
from cxr_sklearn.exceptions import DataError


@pytest.fixture
def frame():
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


def test_equally_many_of_both_classes_and_no_patient_twice(frame):
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


def test_the_seed_decides(frame):
    first = balanced_subset(frame, 10, 10, 5, random_state=1)
    pd.testing.assert_frame_equal(balanced_subset(frame, 10, 10, 5, random_state=1), first)
    assert set(balanced_subset(frame, 10, 10, 5, random_state=2)["path"]) != set(first["path"])


def test_all_of_test(frame):
    assert (balanced_subset(frame, 10, 10, None)["split"] == "test").sum() == 40


def test_a_patient_that_would_be_in_two_splits(frame):
    shared = frame.assign(patient=frame["patient"].replace("testnormal1", "trainnormal1"))
    with pytest.raises(DataError, match="1 patient would be in two splits, for example trainnormal1"):
        balanced_subset(shared, 60 * 2, 0, 20)


def test_patients_of_both_classes_are_left_out(frame):
    mixed = frame.assign(patient=frame["patient"].replace("trainnormal7", "trainpneumonia7"))
    drawn = balanced_subset(mixed, 59 * 2, 0, 10, random_state=0)
    assert "trainpneumonia7" not in set(drawn["patient"])
    with pytest.raises(DataError, match="119 normal images"):
        balanced_subset(mixed, 59 * 2 + 1, 0, 10)


def test_the_order_of_rows_does_not_matter(frame):
    shuffled = frame.sample(frac=1, random_state=0)
    first = balanced_subset(frame, 10, 10, 5, random_state=1)
    pd.testing.assert_frame_equal(balanced_subset(shuffled, 10, 10, 5, random_state=1), first)


def test_nothing_to_draw(frame):
    with pytest.raises(ValueError, match="nothing to draw"):
        balanced_subset(frame, 0, 0, 0)
    with pytest.raises(DataError, match="no image is in it"):
        balanced_subset(frame[frame["split"] == "train"], 5, 5, None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "TRAIN"}, "split 'TRAIN' must be one of train, val, test"),
        ({"patient": None}, "images without patient"),
        ({"target": 2}, "neither 0"),
        ({"path": "a.png"}, "duplicate path a.png"),
    ],
)
@pytest.mark.parametrize("divide", [balanced_subset, group_split])
def test_odd_tables_are_refused(frame, divide, change, message):
    with pytest.raises(DataError, match=message):
        divide(frame.assign(**change))
    with pytest.raises(DataError, match="lacks the columns"):
        divide(frame.drop(columns="split"))
    with pytest.raises(ValueError, match=r"frame=\[1, 2\] must be a DataFrame, not list"):
        divide([1, 2])


def test_tables_of_other_types_will_do(frame):
    odd = frame.assign(
        path=frame["path"].map(Path), split=pd.Categorical(frame["split"]), patient=pd.factorize(frame["patient"])[0]
    )
    drawn = balanced_subset(odd, 10, 10, 5, random_state=0)
    assert drawn.groupby("split").size().to_dict() == {"test": 10, "train": 20, "val": 20}
    assert set(group_split(odd, random_state=0)["split"]) == {"train", "val", "test"}


@pytest.mark.parametrize("n", [-5, 2.5])
def test_invalid_numbers_of_images(frame, n):
    with pytest.raises(ValueError, match=f"val={n}"):
        balanced_subset(frame, 10, n)


def test_too_few(frame):
    with pytest.raises(DataError, match=r"5 pneumonia images .* but only 0 of 0 are left"):
        balanced_subset(frame[frame["target"] == 0], 5, 0, None)
    with pytest.raises(DataError, match=r"val needs 120 normal images of patients in no other split"):
        balanced_subset(frame, 120, 120, None)
    with pytest.raises(DataError, match=r"test needs 21 normal images .* but only 20 of 20 are left"):
        balanced_subset(frame, 10, 10, 21)


def test_without_splits_all_three_are_drawn_from_all(frame):
    drawn = balanced_subset(frame.assign(split=None), 31, 20, 7, random_state=0)
    assert drawn.groupby(["split", "target"]).size().tolist() == [7, 7, 31, 31, 20, 20]
    assert drawn.groupby("patient")["split"].nunique().max() == 1


def test_without_a_test_split_test_is_drawn_from_train(frame):
    drawn = balanced_subset(frame[frame["split"] == "train"], 31, 20, 7, random_state=0)
    assert drawn.groupby("split").size().to_dict() == {"train": 62, "val": 40, "test": 14}
    with pytest.raises(DataError, match=r"test needs 70 normal images"):
        balanced_subset(frame[frame["split"] == "train"], 31, 20, 70)


class TestGroupSplit:
    def test_a_folder_without_val(self, frame):
        divided = group_split(frame, val=0.25, random_state=0)
        assert divided.index.equals(frame.index)
        assert divided.groupby(["split", "target"]).size().tolist() == [20, 20, 90, 90, 30, 30]
        assert (divided["split"][frame["split"] == "test"] == "test").all()
        assert divided.groupby("patient")["split"].nunique().max() == 1

    def test_a_folder_without_splits(self, frame):
        divided = group_split(frame.assign(split=None), val=0.2, test=0.3, random_state=0)
        assert divided.groupby("split").size().to_dict() == {"train": 140, "val": 56, "test": 84}
        assert divided.groupby("patient")["split"].nunique().max() == 1

    def test_a_val_that_is_too_small_is_divided_anew(self, frame):
        few = frame.assign(split=frame["split"].where(frame["patient"] != "trainnormal3", "val"))
        assert (group_split(few, val=0.1, random_state=0)["split"] == "val").sum() == 24

    def test_the_seed_decides(self, frame):
        first = group_split(frame, random_state=1)
        pd.testing.assert_frame_equal(group_split(frame, random_state=1), first)
        assert not group_split(frame, random_state=2).equals(first)

    def test_a_patient_of_both_classes_stays_together(self, frame):
        mixed = frame.assign(patient=frame["patient"].replace("trainnormal7", "trainpneumonia7"))
        for seed in range(5):
            assert group_split(mixed, random_state=seed).groupby("patient")["split"].nunique().max() == 1

    def test_what_cannot_be_divided(self, frame):
        with pytest.raises(ValueError, match=r"val=0.9 and test=0.15 must be at least 0"):
            group_split(frame, val=0.9)
        with pytest.raises(DataError, match="too few patients for both classes in the val split"):
            group_split(frame, val=0.001)
        with pytest.raises(DataError, match="1 patient would be in two splits"):
            group_split(frame.assign(patient=frame["patient"].replace("testnormal1", "trainnormal1")))
