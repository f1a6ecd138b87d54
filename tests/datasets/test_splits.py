import pandas as pd
import pytest

from cxr_sklearn import balanced_subset
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
    with pytest.raises(DataError, match="would be in two splits, everybody among them"):
        balanced_subset(frame.assign(patient="everybody"), 10, 0, 10)


@pytest.mark.parametrize("n", [-5, 2.5])
def test_what_is_no_number_of_images(frame, n):
    with pytest.raises(DataError, match=f"val={n}"):
        balanced_subset(frame, 10, n)


def test_too_few(frame):
    with pytest.raises(DataError, match=r"5 pneumonia images .* but 0 of 0 are left"):
        balanced_subset(frame[frame["target"] == 0], 5, 0, None)
    with pytest.raises(DataError, match=r"120 normal images of patients in no other split.*as val"):
        balanced_subset(frame, 120, 120, None)
    with pytest.raises(DataError, match=r"21 normal images .* as test, but 20 of 20 are left"):
        balanced_subset(frame, 10, 10, 21)
