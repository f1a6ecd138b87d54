import numpy as np
import pandas as pd
import pytest
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cxr_sklearn.evaluation.bootstrap import bootstrap, wilson
from cxr_sklearn.evaluation.calibration import calibration_facts
from cxr_sklearn.models.calibration import METHODS
from cxr_sklearn.models.model import CXRModel
from cxr_sklearn.study.search import calibrate_scores, calibrated_rows


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def facts(target, score):
    draws = bootstrap(np.arange(len(target)), target, {"a": score}, {"a": 0.5}, n_draws=200)["a"]
    return calibration_facts(target, score, draws)


def test_bins_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    score = np.append(rng.random(500), [0, 0.1, 0.2, 1.0])
    target = rng.binomial(1, score)
    found = facts(target, score)
    observed, mean = calibration_curve(target, score, n_bins=10)
    assert [part["observed"] for part in found["bins"]] == pytest.approx(observed)
    assert [part["mean_score"] for part in found["bins"]] == pytest.approx(mean)
    assert sum(part["n"] for part in found["bins"]) == 504
    first = found["bins"][0]
    assert first["ci95"] == wilson(round(first["observed"] * first["n"]), first["n"])
    sizes = np.array([part["n"] for part in found["bins"]])
    assert found["ece"] == pytest.approx(np.average(np.abs(observed - mean), weights=sizes))


def test_skill_of_forecasts_that_know_everything_something_and_nothing():
    target = np.array([0, 1] * 50)
    assert facts(target, target.astype(float))["brier_skill"]["value"] == 1
    assert facts(target, np.full(100, 0.5))["brier_skill"]["value"] == pytest.approx(0)
    assert facts(target, np.full(100, 0.5))["ece"] == pytest.approx(0)
    assert facts(target, 1.0 - target)["brier_skill"]["value"] == -3
    some = facts(target, np.where(target, 0.7, 0.4))["brier_skill"]
    assert some["ci95"][0] < some["value"] < some["ci95"][1]


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
    assert calibrated_rows(scores, None) is scores


@pytest.mark.parametrize("method", ["sigmoid", "isotonic"])
def test_scores_against_the_labels_are_not_turned_round(method):
    """Out-of-fold scores of a classifier that learnt nothing can run against the labels by chance."""
    before = table(7)
    against = before.assign(target=1 - before["target"])
    after, calibrator = calibrate_scores(against, method)
    assert calibrator is None
    assert after is against


def test_out_of_fold_scores_are_calibrated_by_those_of_other_folds():
    """Scores that tell nothing stay so: calibrated on themselves they would look better than chance."""
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
