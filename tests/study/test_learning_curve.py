import shutil

import numpy as np
import pandas as pd
import pytest

from cxr_sklearn import learning_curve, load_folder
from cxr_sklearn.evaluation.summary import learning_facts
from cxr_sklearn.evaluation.tables import read_table
from cxr_sklearn.exceptions import DataError, InputError
from cxr_sklearn.study.learning_curve import _draw, _sizes, frozen_recipes
from cxr_sklearn.study.recipes import default_recipes
from cxr_sklearn.study.run_folder import fits

from ..conftest import ROOT, write_image


@pytest.mark.parametrize(
    ("n", "sizes"),
    [(30, [30]), (35, [30, 35]), (90, [30, 60, 90]), (400, [30, 60, 120, 240, 400]), (360, [30, 60, 120, 240, 360])],
)
def test_numbers_of_patients(n, sizes):
    assert _sizes(n) == sizes


def test_too_few_patients():
    with pytest.raises(DataError, match="29 training patients"):
        _sizes(29)


def test_draws_keep_the_shares_and_contain_each_other():
    train = pd.DataFrame({"patient": np.repeat([f"p{i}" for i in range(200)], 2)})
    train["target"] = (train["patient"].str[1:].astype(int) % 4 > 0).astype(int)
    small, large, other = _draw(train, 40, 0), _draw(train, 80, 0), _draw(train, 40, 1)
    assert (small["patient"].nunique(), len(small)) == (40, 80)
    assert small.groupby("patient")["target"].first().sum() == 30
    assert set(small["patient"]) < set(large["patient"])
    assert set(small["patient"]) != set(other["patient"])


def test_copies_on_both_sides_are_refused(tmp_path):
    for i in range(120):
        split, label = "train" if i < 60 else "val", "NORMAL" if i % 2 else "PNEUMONIA"
        write_image(tmp_path / "set" / split / label / f"{i}.png", seed=i)
    shutil.copy(tmp_path / "set/train/NORMAL/1.png", tmp_path / "set/val/NORMAL/61.png")
    options = {"out": tmp_path / "run", "store": tmp_path / "store", "n_repeats": 1}
    with pytest.raises(DataError, match="1 group of identical files across splits"):
        learning_curve(load_folder(tmp_path / "set"), ["shortcuts"], **options)
    curve = learning_curve(load_folder(tmp_path / "set"), ["shortcuts"], allow_leaks=True, **options)
    assert set(curve["source"]) == {"val"}


def test_the_frozen_recipes_are_those_with_an_embedder():
    texts = {name: (ROOT / "pipelines" / f"{name}.py").read_text(encoding="utf-8") for name in default_recipes()}
    assert frozen_recipes() == [name for name, text in texts.items() if "FrozenEmbedder(" in text]


@pytest.fixture(scope="module")
def curve(embedded_frame, tmp_path_factory):
    frame, store = embedded_frame
    out = tmp_path_factory.mktemp("curve")
    return learning_curve(frame, ["vgg16_logistic"], out=out, weights="random", store=store, n_repeats=4), out, frame


def test_more_patients_are_better(curve):
    table, out, _ = curve
    points = learning_facts(table)["pipelines"]["vgg16_logistic"]["points"]
    assert points[0]["patients"] == 30
    assert points[-1]["mean"] > points[0]["mean"]
    assert all(point["low"] <= point["mean"] <= point["high"] for point in points)
    assert points[-1]["low"] == points[-1]["high"]
    assert (table.groupby("patients").size().iloc[:-1] == 4).all()
    pd.testing.assert_frame_equal(read_table(out, "learning_curve"), table.reset_index(drop=True))
    assert set(table["weights"]) == {"random"}


def test_a_small_validation_split_is_not_used(curve):
    table, _, frame = curve
    assert frame[frame["split"] == "val"]["target"].value_counts().min() < 30
    assert set(table["source"]) == {"held-out"}
    n_train = (frame["split"] == "train").sum()
    assert 0.15 * n_train < table["images"].iloc[0] < 0.35 * n_train
    assert table["patients"].max() < frame[frame["split"] == "train"]["patient"].nunique()


def test_a_large_validation_split_is_used_and_no_patient_of_it_is_trained_on(embedded_frame, tmp_path):
    frame, store = embedded_frame
    train = frame[frame["split"] == "train"]
    patients = train.groupby("target")["patient"].unique()
    moved = {patient for of_class in patients for patient in of_class[:16]}
    split = frame["split"].where(~frame["patient"].isin(moved), "val")
    table = learning_curve(frame.assign(split=split), ["shortcuts"], out=tmp_path, store=store, n_repeats=1)
    assert set(table["source"]) == {"val"}
    assert (table["images"] == (split == "val").sum()).all()
    assert table["patients"].max() == frame[split == "train"]["patient"].nunique()


def test_what_it_cannot_do(embedded_frame, tmp_path):
    frame, store = embedded_frame
    with pytest.raises(InputError, match="n_repeats=0"):
        learning_curve(frame, ["shortcuts"], out=tmp_path, store=store, n_repeats=0)
    with pytest.raises(DataError, match="there are no normal images in the train split"):
        learning_curve(frame[frame["split"] == "test"], "shortcuts", out=tmp_path, store=store)
    with pytest.raises(DataError, match="the table lacks the columns"):
        learning_curve(frame.drop(columns="patient"), ["shortcuts"], out=tmp_path, store=store)


def test_a_patient_in_both_splits(embedded_frame, tmp_path):
    frame, store = embedded_frame
    both = frame.assign(split=np.where(np.arange(len(frame)) % 2 == 0, "train", "val"))
    with pytest.raises(DataError, match="patients have images in both train and val"):
        learning_curve(both, ["shortcuts"], out=tmp_path, store=store)


def test_a_curve_of_other_images_does_not_fit(curve):
    table, _, frame = curve
    train, val = ({"patients": rows["patient"].nunique(), "images": len(rows)}
                  for rows in (frame[frame["split"] == split] for split in ("train", "val")))  # fmt: skip
    data = {"splits": {"train": train, "val": val}}
    assert fits(table, data)
    assert not fits(table[:0], data)
    assert not fits(table.assign(source="val"), data)
    assert fits(table.assign(source="val", images=val["images"], patients=train["patients"]), data)
    assert not fits(table, {"splits": {"train": {"patients": 20, "images": 40}, "val": val}})
