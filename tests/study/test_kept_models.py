"""Whatever rule, calibration and classifier a model was made with, its file decides as the rule did."""

import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

from cxr_sklearn import (
    CXRModel,
    DomainDetector,
    ShortcutFeatures,
    compare,
    load_model,
    predict,
    save_model,
    train,
    write_radiographs,
)
from cxr_sklearn.evaluation.tables import read_scores
from cxr_sklearn.evaluation.thresholds import choose_threshold, parse_rule
from cxr_sklearn.models.calibration import METHODS
from cxr_sklearn.study.recipes import candidates_of
from cxr_sklearn.study.search import fit_candidate, patient_folds

RULES = ["youden", "robust", "sensitivity=.95", "sensitivity=1", "specificity=.9", "specificity=.99", "specificity=1",
         "cost=5:1", "cost=1:1000", "0", "0.5", "1"]  # fmt: skip
HEADS = {
    "shortcuts": None,
    "tree": DecisionTreeClassifier(random_state=0),  # scores of 0 and 1 alone, and .joblib alone can hold it
    "bayes": GaussianNB(),  # very sure
    "mlp": MLPClassifier((4,), max_iter=2000, random_state=0),
    "constant": DummyClassifier(strategy="prior"),  # no score differs
}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def frame(tmp_path_factory):
    """Radiographs with enough of them for validation that thresholds are chosen there."""
    return write_radiographs(tmp_path_factory.mktemp("radiographs"), 150, size=32, random_state=0)


def pipeline_of(name, store):
    head = HEADS[name]
    return name if head is None else make_pipeline(ShortcutFeatures(store=store), StandardScaler(), head)


@pytest.mark.parametrize("calibrate", [None, *METHODS])
@pytest.mark.parametrize("name", HEADS)
def test_a_saved_model_decides_as_its_rule_did(frame, store, tmp_path, name, calibrate):
    (candidate,) = candidates_of({name: pipeline_of(name, store)}, (), store=store, random_state=0)
    rows = frame[frame["split"] == "train"]
    splits = patient_folds(rows, 3, 0)
    fitted = fit_candidate(candidate, frame, splits, calibrate=calibrate, n_jobs=None, verbose=0)
    val = fitted.scores[fitted.scores["split"] == "val"]
    for rule in RULES:
        chosen = choose_threshold(fitted.scores, parse_rule(rule))
        model = CXRModel(fitted.model, chosen["value"], calibrator=fitted.calibrator)
        called = val["score"].to_numpy() >= chosen["value"]
        for ending in ("skops", "joblib") if name != "tree" else ("joblib",):
            save_model(model, tmp_path / f"model.{ending}")
            again = load_model(tmp_path / f"model.{ending}", trusted=True, store=store)
            assert again.threshold == chosen["value"]
            np.testing.assert_array_equal(again.predict(val["path"]), called)
            np.testing.assert_array_equal(again.predict_proba(val["path"])[:, 1], val["score"])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scores_of_any_precision_are_decided_alike(dtype):
    """0.1 of float32 is more than 0.1 of float64, and less than the float64 after it."""
    score = dtype(0.1)
    for threshold in (float(score), np.float32(score), np.nextafter(float(score), 1)):
        decided = CXRModel(None, threshold).decide(np.array([[1 - score, score]], dtype=dtype))
        assert decided.tolist() == [int(float(score) >= float(threshold))]


def test_a_rule_that_ends_above_1(frame, store, tmp_path):
    """Isotonic calibration gives scores of 1, so that no threshold up to 1 keeps a normal image below it."""
    model = train(frame, "shortcuts", store=store, calibrate="isotonic", threshold="specificity=1", cv=3)
    save_model(model, tmp_path / "model.skops")
    table = predict(load_model(tmp_path / "model.skops", store=store), frame["path"], store=store)
    assert (table["threshold"] == model.threshold).all()
    normal = (frame["target"] == 0) & (frame["split"] == "val")
    assert (table["decision"][normal.to_numpy()] == "normal").all()


def test_tables_give_back_the_numbers_that_were_written(frame, store, tmp_path):
    pipeline = make_pipeline(ShortcutFeatures(store=store), StandardScaler(), LogisticRegression())
    out = tmp_path / "run"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metrics = compare(frame, {"mine": pipeline}, out=out, store=store, cv=3, threshold="specificity=.99")
    rows = read_scores(out).query("pipeline == 'mine' and split == 'val'")
    model = load_model(out / "models" / "mine.skops", store=store)
    np.testing.assert_array_equal(model.predict_proba(rows["path"])[:, 1], rows["score"])
    assert model.threshold == metrics["pipelines"]["mine"]["threshold"]["value"]
    again = pd.read_csv(out / "scores.csv").query("pipeline == 'mine' and split == 'val'")
    assert again["score"].tolist() == rows["score"].tolist()
    printed = pd.DataFrame({"score": rows["score"]}).to_csv(index=False).split()[1:]
    assert [float(number) for number in printed] == rows["score"].tolist()
    assert isinstance(model.domain, DomainDetector)


def test_what_skops_cannot_hold_is_kept_as_joblib_and_an_earlier_one_replaced(frame, store, tmp_path):
    pipeline = make_pipeline(ShortcutFeatures(store=store), DecisionTreeClassifier(random_state=0))
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"kept as .*forest\.joblib, which runs code when it is loaded: "):
            compare(frame, {"forest": pipeline}, out=tmp_path, store=store, cv=2)
        assert {path.name for path in (tmp_path / "models").iterdir()} == {"forest.joblib", "shortcuts.skops"}
    rows = read_scores(tmp_path).query("pipeline == 'forest' and split == 'test'")
    model = load_model(tmp_path / "models" / "forest.joblib", trusted=True, store=store)
    np.testing.assert_array_equal(model.predict_proba(rows["path"])[:, 1], rows["score"])


def test_what_a_search_may_choose_is_tried_before_the_training():
    pipeline = Pipeline([("measure", ShortcutFeatures(store=None)), ("classify", GaussianNB())])
    grid = {"classify": [GaussianNB(), DecisionTreeClassifier()], "measure__verbose": [0, 1]}
    both, one = ["GaussianNB", "DecisionTreeClassifier"], ["GaussianNB"]
    for given, kinds in ((grid, both), ({}, one), ([grid, {"classify__var_smoothing": [1, 2]}], both + one)):
        (candidate,) = candidates_of({"mine": (pipeline, given)}, ())
        assert [type(variant[-1]).__name__ for variant in candidate.variants()] == kinds
