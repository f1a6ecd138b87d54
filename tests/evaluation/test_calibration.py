import numpy as np
import pytest
from sklearn.calibration import calibration_curve

from cxr_sklearn.evaluation.bootstrap import bootstrap, wilson
from cxr_sklearn.evaluation.calibration import calibration_facts


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
