from statistics import NormalDist

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_curve

from cxr_sklearn.evaluation import bootstrap as module
from cxr_sklearn.evaluation.bootstrap import (
    FPR_GRID,
    bootstrap,
    bootstrap_rates,
    interval,
    patient_counts,
    rate,
    wilson,
)
from cxr_sklearn.evaluation.metrics import METRICS, compute_metrics

from .test_summary import all_metrics, decision_metrics

MU, SHARED, OWN, CUT = 1.5, 0.8, 0.6, 0.5  # the last is on the scale of the score


def simulated(rng, n_patients):
    """Patients with one to six images, whose scores share the patient's deviation."""
    sick = rng.random(n_patients) < 0.5
    patients = np.repeat(np.arange(n_patients), rng.integers(1, 7, n_patients))
    deviation = rng.normal(0, SHARED, n_patients)[patients] + rng.normal(0, OWN, len(patients))
    target = sick[patients].astype(int)
    return patients, target, 1 / (1 + np.exp(-(MU * (target - 0.5) + deviation)))


def truth():
    """The metrics for infinitely many patients; those without a formula are estimated from very many."""
    spread = np.hypot(SHARED, OWN)
    right = norm.cdf(MU / 2 / spread)  # the threshold .5 is half way between the classes
    rng = np.random.default_rng(99)
    _, target, score = simulated(rng, 400_000)
    exact = {"accuracy": right, "precision": right, "recall": right, "specificity": right, "f1": right,
             "mcc": 2 * right - 1, "roc_auc": norm.cdf(MU / spread / 2**0.5)}  # fmt: skip
    return compute_metrics(target, score, CUT) | exact


def test_draws_are_what_scikit_learn_computes_on_the_drawn_images():
    rng = np.random.default_rng(0)
    patients, target, score = simulated(rng, 60)
    score = np.round(score, 2)  # ties
    found = bootstrap(patients, target, {"a": score}, {"a": 0.4}, n_draws=40)["a"]
    counts = np.vstack(list(patient_counts(60, 40, 0, len(target))))
    assert (counts.sum(axis=1) == 60).all()
    for i, times in enumerate(counts[:, patients].astype(int)):
        rows = np.repeat(np.arange(len(target)), times)
        expected = all_metrics(target[rows], score[rows], 0.4)
        at_half = decision_metrics(target[rows], score[rows], 0.5)
        assert {name: found.metrics[name][i] for name in METRICS} == pytest.approx(expected, abs=3e-6)
        assert {name: values[i] for name, values in found.at_half.items()} == pytest.approx(at_half, abs=1e-9)
        fpr, tpr, _ = roc_curve(target[rows], score[rows], drop_intermediate=False)
        assert found.roc[i] == pytest.approx([tpr[fpr <= x + 1e-9].max() for x in FPR_GRID], abs=1e-6)
        assert found.metrics["prevalence"][i] == pytest.approx(target[rows].mean())


def test_the_number_of_images_at_a_time_changes_nothing(monkeypatch):
    patients, target, score = simulated(np.random.default_rng(1), 50)
    whole = bootstrap(patients, target, {"a": score}, {"a": 0.4}, n_draws=30)["a"]
    monkeypatch.setattr(module, "_CHUNK", 7 * len(target))
    parts = bootstrap(patients, target, {"a": score}, {"a": 0.4}, n_draws=30)["a"]
    np.testing.assert_allclose(parts.metrics["roc_auc"], whole.metrics["roc_auc"], rtol=1e-6)
    np.testing.assert_array_equal(parts.roc, whole.roc)


def test_draws_are_paired_and_repeatable():
    patients, target, score = simulated(np.random.default_rng(2), 50)
    draws = bootstrap(patients, target, {"a": score, "b": score}, {"a": 0.5, "b": 0.5}, n_draws=30)
    alone = bootstrap(patients, target, {"b": score}, {"b": 0.5}, n_draws=30)
    other = bootstrap(patients, target, {"b": score}, {"b": 0.5}, n_draws=30, random_state=1)
    for name in METRICS:
        np.testing.assert_array_equal(draws["a"].metrics[name], draws["b"].metrics[name])
        np.testing.assert_array_equal(alone["b"].metrics[name], draws["b"].metrics[name])
    assert not np.array_equal(other["b"].metrics["roc_auc"], alone["b"].metrics["roc_auc"])


def test_a_draw_without_a_class_says_nothing():
    found = bootstrap(["a", "b"], [0, 1], {"x": [0.2, 0.9]}, {"x": 0.5}, n_draws=200)["x"]
    one_class = np.isnan(found.metrics["roc_auc"])
    assert 50 < one_class.sum() < 150  # half of the draws take one patient twice
    assert np.isnan(found.roc[one_class]).all()
    assert np.isnan(found.at_half["accuracy"][one_class]).all()
    assert (found.metrics["roc_auc"][~one_class] == 1).all()
    assert interval(found.metrics["roc_auc"], 1.0) is None


def test_rates_are_drawn_like_everything_else():
    patients, target, score = simulated(np.random.default_rng(3), 80)
    right = (score >= 0.5) == (target == 1)
    members = np.column_stack([target == 1, target == 0])
    rates = bootstrap_rates(patients, np.column_stack([right, right]), members, n_draws=50)
    metrics = bootstrap(patients, target, {"a": score}, {"a": 0.5}, n_draws=50)["a"].metrics
    np.testing.assert_allclose(rates, np.column_stack([metrics["recall"], metrics["specificity"]]), atol=1e-6)
    nobody = bootstrap_rates(patients, right[:, np.newaxis], np.zeros((len(right), 1), dtype=bool), n_draws=5)
    assert np.isnan(nobody).all()


def test_wilson_interval_worked_out_by_hand():
    """15 of 20: (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n)."""
    z, p, n = NormalDist().inv_cdf(0.975), 0.75, 20
    half = z * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5
    expected = [(p + z**2 / (2 * n) + sign * half) / (1 + z**2 / n) for sign in (-1, 1)]
    assert wilson(15, 20) == pytest.approx(expected)


def test_a_rate_of_one_takes_wilsons_interval_and_says_so():
    certain = rate(20, 20, np.ones(100))
    assert certain == {"value": 1, "ci95": wilson(20, 20), "method": "wilson"}
    by_draws = rate(10, 20, np.linspace(0, 1, 1001))
    assert by_draws == {"value": 0.5, "ci95": pytest.approx([0.025, 0.975]), "method": "bootstrap"}


def test_draws_that_lie_too_low_are_corrected():
    """A third of the draws below the value: the percentiles move by twice the normal quantile of a third."""
    draws = np.linspace(0, 1, 3001)
    low, high = interval(draws, 1 / 3)
    assert [low, high] == pytest.approx(norm.cdf(2 * norm.ppf(1 / 3) + norm.ppf([0.025, 0.975])), abs=1e-3)
    assert interval(np.append(draws, np.nan), 1 / 3) == [low, high]


@pytest.mark.slow
def test_intervals_cover_the_truth():
    """In 93 to 97 % of 1,000 repetitions; intervals from bootstrap samples of images fail the same test."""
    true = truth()
    covered = {"patients": dict.fromkeys(METRICS, 0), "images": dict.fromkeys(METRICS, 0)}
    n_repetitions = {"patients": 1000, "images": 200}  # large errors show with fewer repetitions
    for seed in range(1000):
        patients, target, score = simulated(np.random.default_rng(seed), 200)
        found = compute_metrics(target, score, CUT)
        for kind, units in (("patients", patients), ("images", np.arange(len(target)))):
            if seed >= n_repetitions[kind]:
                continue
            draws = bootstrap(units, target, {"a": score}, {"a": CUT}, n_draws=500, random_state=seed)["a"].metrics
            for name in METRICS:
                low, high = interval(draws[name], found[name])
                covered[kind][name] += low <= true[name] <= high
    share = {kind: {name: n / n_repetitions[kind] for name, n in counts.items()} for kind, counts in covered.items()}
    assert all(0.93 <= value <= 0.97 for value in share["patients"].values()), share
    assert all(value < 0.93 for value in share["images"].values()), share
