import numpy as np
import pytest
import statsmodels.api as sm
from scipy.special import expit, logit
from sklearn.calibration import calibration_curve

from cxr_sklearn.evaluation.bootstrap import bootstrap, wilson
from cxr_sklearn.evaluation.calibration import calibration_facts, fit_recalibration
from cxr_sklearn.models.calibration import recalibrated


def facts(target, score, patients=None):
    patients = np.arange(len(target)) if patients is None else patients
    draws = bootstrap(patients, target, {"a": score}, {"a": 0.5}, n_draws=200)["a"]
    return calibration_facts(patients, target, score, draws)


def cohort(slope=1.0, intercept=0.0, n=3000, seed=0):
    """Outcomes, and scores whose log odds have to be multiplied by `slope` and moved by `intercept`."""
    odds = np.random.default_rng(seed).normal(0, 1.5, n)
    target = np.random.default_rng(seed + 1).binomial(1, expit(intercept + slope * odds))
    return target, expit(odds)


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


@pytest.mark.parametrize(("slope", "intercept"), [(1, 0), (0.5, 0.4), (1.6, -1)])
def test_slope_and_intercept_are_those_of_statsmodels(slope, intercept):
    target, score = cohort(slope, intercept)
    odds, one = logit(score), np.ones(len(score))
    found = facts(target, score)
    wanted = sm.Logit(target, np.column_stack([one, odds])).fit(disp=0)
    assert found["slope"]["value"] == pytest.approx(wanted.params[1], rel=1e-6)
    # One image is one patient here, so the intervals are nearly those of the theory.
    assert found["slope"]["ci95"] == pytest.approx(wanted.conf_int()[1], abs=0.03)
    large = sm.GLM(target, one, family=sm.families.Binomial(), offset=odds).fit()
    assert found["intercept"]["value"] == pytest.approx(large.params[0], abs=1e-6)
    assert found["intercept"]["ci95"] == pytest.approx(large.conf_int()[0], abs=0.03)
    ratio = found["observed_expected"]
    assert ratio["value"] == pytest.approx(target.sum() / score.sum())
    assert ratio["ci95"][0] < ratio["value"] < ratio["ci95"][1]


def test_the_smooth_curve_is_that_of_statsmodels():
    target, score = cohort(0.6, 0.5)
    odds = logit(score)
    curve = facts(target, score)["curve"]
    knots = np.quantile(odds, (0.05, 0.35, 0.65, 0.95))
    columns = sm.add_constant(np.column_stack([odds, *cubics(odds, knots)]))
    at = logit(np.array(curve["score"]))
    wanted = sm.Logit(target, columns).fit(disp=0)
    basis = np.column_stack([np.ones(len(at)), at, *cubics(at, knots)])
    assert curve["observed"] == pytest.approx(wanted.predict(basis), abs=2e-4)
    truth = expit(0.5 + 0.6 * at)
    assert np.mean((curve["low"] <= truth) & (truth <= curve["high"])) > 0.8


def cubics(x, knots):
    """Harrell's formula, written out."""
    first, second, third, fourth = knots
    for knot in (first, second):
        yield (
            np.maximum(x - knot, 0) ** 3
            - np.maximum(x - third, 0) ** 3 * (fourth - knot) / (fourth - third)
            + np.maximum(x - fourth, 0) ** 3 * (third - knot) / (fourth - third)
        ) / (fourth - first) ** 2


def test_patients_with_many_images_widen_the_intervals():
    target, score = cohort(n=300)
    alone = facts(target, score)
    five = facts(np.tile(target, 5), np.tile(score, 5), np.tile(np.arange(300), 5))
    for name in ("slope", "intercept", "observed_expected"):
        assert five[name]["value"] == pytest.approx(alone[name]["value"])
        assert five[name]["ci95"] == pytest.approx(alone[name]["ci95"], rel=0.02)


def test_scores_that_separate_the_classes_have_no_slope():
    target = np.array([0, 1] * 50)
    found = facts(target, np.where(target, 0.9, 0.2))
    assert found["slope"] is None
    assert found["curve"] is None
    assert found["intercept"]["value"] != 0
    assert found["observed_expected"]["value"] == pytest.approx(50 / 55)


@pytest.mark.parametrize("score", [0.0, 0.3, 1.0])
def test_scores_that_are_all_alike_have_an_intercept_alone(score):
    target = np.array([0, 1] * 50)
    found = facts(target, np.full(100, score))
    assert found["slope"] is None
    assert found["curve"] is None
    assert np.isfinite(found["intercept"]["value"])
    if score:
        assert found["observed_expected"]["value"] == pytest.approx(0.5 / score)
    else:
        assert found["observed_expected"] is None


@pytest.mark.parametrize("kind", ["intercept", "sigmoid"])
def test_scores_of_0_and_1_are_fitted_as_they_are_recalibrated(kind):
    """Of the first forty images, whose score is exactly 0 or 1, some have the other label."""
    rng = np.random.default_rng(0)
    score = expit(rng.normal(size=240))
    target = rng.binomial(1, score)
    score[:30], target[:30] = 0, np.arange(30) < 3
    score[30:40], target[30:40] = 1, np.arange(10) > 0
    moved = recalibrated(score, fit_recalibration(target, score, kind))
    assert moved.sum() == pytest.approx(target.sum(), abs=1e-6)
    assert (np.argsort(moved, kind="stable") == np.argsort(score, kind="stable")).all()
