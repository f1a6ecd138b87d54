import os

import numpy as np
import pandas as pd
import pytest
from joblib import Parallel, delayed
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cxr_sklearn import CXRModel
from cxr_sklearn.evaluation.tables import read_table, write_table
from cxr_sklearn.models.calibration import METHODS
from cxr_sklearn.study.search import calibrate_scores, calibrated_rows, training_table, workers_started


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_epochs(tmp_path):
    phases = {"head": {"loss": [0.5], "auc": [0.75]}, "all": {"loss": [0.25, 0.125], "auc": [0.5, 1.0]}}
    training = training_table("NA", phases)  # a pipeline may have any name
    assert training["phase"].tolist() == ["head", "all", "all"]
    assert training["epoch"].tolist() == [1, 1, 2]
    write_table(training, tmp_path, "training")
    pd.testing.assert_frame_equal(read_table(tmp_path, "training"), training.reset_index(drop=True))
    assert training_table("cnn", {"head": {}, "all": {"loss": [1.0]}})["phase"].tolist() == ["all"]
    write_table(training_table("cnn", {"all": {"loss": [float("nan")]}}), tmp_path, "training")
    assert read_table(tmp_path, "training")["loss"].isna().all()  # a training that diverged


def test_started_workers_are_those_that_fit():
    with workers_started(2):
        pass
    first = set(Parallel(n_jobs=2)(delayed(os.getpid)() for _ in range(8)))
    with pytest.raises(KeyError), workers_started(2):
        raise KeyError
    again = set(Parallel(n_jobs=2)(delayed(os.getpid)() for _ in range(8)))
    assert len(first | again) <= 2  # none was ended and replaced
    assert os.getpid() not in first


def table(seed, n_val=400):
    """Scores whose logits are three times too large, and one too high."""
    rng = np.random.default_rng(seed)
    parts = []
    for split, n in (("train", 300), ("val", n_val), ("test", 2000)):
        logit = rng.normal(0, 1.5, n)
        fold = np.arange(n) % 3 if split == "train" else -1
        parts.append(pd.DataFrame({"split": split, "fold": fold, "target": rng.binomial(1, sigmoid(logit)),
                                   "score": sigmoid(3 * logit + 1)}))  # fmt: skip
    return pd.concat(parts, ignore_index=True)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n_val", [400, 10])
def test_calibration_helps_on_images_it_has_not_seen(method, n_val):
    before = table(1, n_val)
    after, _ = calibrate_scores(before, method)
    test, was = (rows[rows["split"] == "test"] for rows in (after, before))
    assert after.drop(columns="score").equals(before.drop(columns="score"))
    assert test["score"].between(0, 1).all()
    for loss in (brier_score_loss, log_loss):
        assert loss(test["target"], test["score"]) < loss(was["target"], was["score"]) - 0.01
    assert roc_auc_score(test["target"], test["score"]) == pytest.approx(
        roc_auc_score(was["target"], was["score"]), abs=0.01 if method == "isotonic" else 1e-6
    )


def test_temperature_divides_the_logit():
    before = table(2)
    after, _ = calibrate_scores(before, "temperature")
    ratio = np.log(after["score"] / (1 - after["score"])) / np.log(before["score"] / (1 - before["score"]))
    assert ratio.std() < 1e-3
    assert 0.2 < ratio.mean() < 0.5


@pytest.mark.parametrize("split", ["test", "train"])
def test_only_validation_images_calibrate_if_they_are_enough(split):
    before = table(3)
    turned = before.assign(target=before["target"].where(before["split"] != split, 1 - before["target"]))
    a, b = (calibrate_scores(rows, "sigmoid")[0]["score"] for rows in (before, turned))
    pd.testing.assert_series_equal(a, b)


def test_scores_of_exactly_zero_and_one():
    scores = table(4)
    scores.loc[::50, "score"] = 0.0
    scores.loc[7::50, "score"] = 1.0
    for method in METHODS:
        assert np.isfinite(calibrate_scores(scores, method)[0]["score"]).all()


def test_the_calibrated_model_gives_the_calibrated_scores():
    rng = np.random.default_rng(5)
    X = rng.normal(size=(300, 2))
    y = (X[:, 0] + rng.normal(size=300) > 0).astype(int)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=100)).fit(X[:100], y[:100])
    scores = pd.DataFrame({"split": np.repeat(["train", "val", "test"], 100), "fold": 0, "target": y,
                           "score": model.predict_proba(X)[:, 1]})  # fmt: skip
    after, calibrator = calibrate_scores(scores, "isotonic")
    whole = CXRModel(model, calibrator=calibrator)
    np.testing.assert_array_equal(whole.predict_proba(X)[:, 1], after["score"])
    assert whole.classes_.tolist() == [0, 1]


def test_without_a_calibrator_nothing_changes():
    scores = table(6)
    pd.testing.assert_frame_equal(calibrated_rows(scores, None), scores)


@pytest.mark.parametrize("method", ["sigmoid", "isotonic"])
def test_scores_against_the_labels_are_not_turned_round(method):
    """The out-of-fold scores of a classifier that learnt nothing can be reversed by chance."""
    before = table(7)
    against = before.assign(target=1 - before["target"])
    after, calibrator = calibrate_scores(against, method)
    assert calibrator is None
    assert after is against


def test_out_of_fold_scores_are_calibrated_by_those_of_other_folds():
    """Scores without information stay so; calibrated on themselves, they would look better than chance."""
    rng = np.random.default_rng(0)
    auc = []
    for _ in range(40):
        scores = pd.DataFrame({"split": "train", "fold": np.arange(60) % 5, "target": rng.integers(0, 2, 60),
                               "score": rng.random(60)})  # fmt: skip
        after, calibrator = calibrate_scores(scores, "isotonic")
        if calibrator is not None:
            auc += [roc_auc_score(rows["target"], rows["score"]) for _, rows in after.groupby("fold")
                    if rows["target"].nunique() == 2]  # fmt: skip
            itself = calibrated_rows(scores, calibrator)
            assert not np.allclose(itself["score"], after["score"])
    assert np.mean(auc) < 0.53
