"""The worked examples of Riley and others, Statistics in Medicine 2021, 40, 4230-4251, and simulated cohorts."""

import numpy as np
import pytest
from scipy.special import expit, logit
from scipy.stats import norm

from cxr_sklearn import validation_sample_size
from cxr_sklearn.evaluation.metrics import compute_metrics
from cxr_sklearn.evaluation.sample_size import (
    for_net_benefit,
    for_observed_expected,
    for_roc_auc,
    for_slope,
    sample_sizes,
)
from cxr_sklearn.exceptions import InputError


def pearson(mean, variance, skewness, kurtosis):
    """Points and weights of the Pearson distribution of type IV with these moments (Heinrich 2004)."""
    r = 6 * (kurtosis - skewness**2 - 1) / (2 * kurtosis - 3 * skewness**2 - 6)
    root = np.sqrt(16 * (r - 1) - skewness**2 * (r - 2) ** 2)
    m, nu = 1 + r / 2, -r * (r - 2) * skewness / root
    scale, place = np.sqrt(variance) * root / 4, mean - (r - 2) * skewness * np.sqrt(variance) / 4
    x = np.linspace(mean - 40, mean + 30, 100_001)
    t = (x - place) / scale
    density = np.exp(-m * np.log1p(t**2) - nu * np.arctan(t))
    return x, density / density.sum()


# The heart valve model of section 4: prevalence .018, AUC .80, log odds with these moments.
VALVES = -5.8, 5, -0.5, 4


def test_observed_expected_as_for_heart_valves():
    # 905 patients for an interval of width 1; `pmvalsampsize` 0.1.0 tests the same number.
    assert for_observed_expected(0.018, width=1) == pytest.approx(905, rel=1e-3)
    # Section 3.1.1, with the standard error .051 for a width of .2: (1 - p) / (p * .051 ** 2).
    assert for_observed_expected(0.5) == pytest.approx(384, rel=5e-3)
    assert for_observed_expected(0.1) == pytest.approx(3460, rel=5e-3)


def test_roc_auc_as_for_heart_valves():
    assert np.ceil(for_roc_auc(0.8, 0.018)) == 4252


def test_slope_as_for_heart_valves():
    odds, weight = pearson(*VALVES)
    assert np.average(expit(odds), weights=weight) == pytest.approx(0.018, abs=5e-4)
    # 9,835 patients. The moments are published with one digit, which moves the number by some percent.
    assert for_slope(odds, expit(odds), weight) == pytest.approx(9835, rel=0.08)


def test_slope_as_for_deep_vein_thrombosis():
    # Log odds N(-1.75, 1.47). Simulation gave 2,430 patients, 531 of them with thrombosis: Snell and others, Journal of
    # Clinical Epidemiology 2021, 135, 79-89.
    odds = norm.ppf((np.arange(20_000) + 0.5) / 20_000, -1.75, 1.47)
    needed = for_slope(odds, expit(odds))
    assert needed == pytest.approx(2430, rel=0.015)
    assert needed * expit(odds).mean() == pytest.approx(531, rel=0.015)


def test_slope_as_in_pmvalsampsize():
    # Its test 4.1 gives 4,501 for N(-5, 2.5), from 1,000 simulated patients.
    odds = norm.ppf((np.arange(20_000) + 0.5) / 20_000, -5, 2.5)
    assert for_slope(odds, expit(odds)) == pytest.approx(4501, rel=0.02)


def test_net_benefit_as_for_heart_valves():
    # 6,443 patients at a threshold of .08; sensitivity and specificity there follow from the distribution.
    odds, weight = pearson(*VALVES)
    p, called = expit(odds), expit(odds) >= 0.08
    prevalence = weight @ p
    sensitivity = weight[called] @ p[called] / prevalence
    specificity = weight[~called] @ (1 - p[~called]) / (1 - prevalence)
    assert for_net_benefit(sensitivity, specificity, prevalence, 0.08) == pytest.approx(6443, rel=5e-3)


def cohort(n=4000, seed=0):
    rng = np.random.default_rng(seed)
    score = expit(rng.normal(-0.8, 1.6, n))
    return (rng.random(n) < score).astype(int), score


def test_a_cohort_of_that_size_measures_as_precisely_as_asked():
    """The standard deviation of each figure over many cohorts of the size that it needs, against the target."""
    target, score = cohort(100_000)
    found = validation_sample_size(target, score, threshold=0.3)
    rng = np.random.default_rng(1)
    drawn = {name: [] for name in ("observed_expected", "roc_auc", "net_benefit")}
    for name, values in drawn.items():
        for _ in range(400):
            rows = rng.integers(0, len(target), found["criteria"][name]["images"])
            y, p = target[rows], score[rows]
            rates = compute_metrics(y, p, 0.3)
            share = y.mean()
            price = (1 - share) / share * 0.3 / 0.7
            values.append({"observed_expected": y.mean() / target.mean(), "roc_auc": rates["roc_auc"],
                           "net_benefit": rates["recall"] - price * (1 - rates["specificity"])}[name])  # fmt: skip
        assert 2 * 1.96 * np.std(values) == pytest.approx(found["criteria"][name]["width"], rel=0.12), name


def test_the_largest_criterion_counts():
    found = validation_sample_size(*cohort())
    needed = {name: criterion["images"] for name, criterion in found["criteria"].items()}
    assert found["criterion"] == max(needed, key=needed.get) == "slope"
    assert found["images"] == found["patients"] == needed["slope"]
    assert found["pneumonia"] == np.ceil(found["images"] * found["prevalence"])
    assert found["reason"] is None


def test_three_copies_of_every_image_need_three_times_as_many():
    target, score = cohort()
    once = validation_sample_size(target, score)
    thrice = validation_sample_size(np.repeat(target, 3), np.repeat(score, 3), patients=np.repeat(np.arange(4000), 3))
    for name, criterion in thrice["criteria"].items():
        assert criterion["design_effect"] == pytest.approx(3)
        assert criterion["images"] == pytest.approx(3 * once["criteria"][name]["images"], abs=3)
    assert thrice["patients"] == pytest.approx(once["patients"], abs=2)


def test_patients_whose_images_have_nothing_in_common_change_nothing():
    target, score = cohort()
    patients = np.random.default_rng(2).permutation(np.arange(4000) // 2)
    effects = validation_sample_size(target, score, patients=patients)["criteria"].values()
    assert all(effect["design_effect"] == pytest.approx(1, abs=0.06) for effect in effects)


def test_scores_that_are_not_calibrated_are_taken_as_they_are():
    """Log odds that are stretched need as many images for observed / expected and AUC, and others for the slope."""
    target, score = cohort()
    stretched = expit(3 * logit(score))
    plain, changed = (validation_sample_size(target, p)["criteria"] for p in (score, stretched))
    for name in ("observed_expected", "roc_auc"):
        assert plain[name] == changed[name]
    # A slope of a third with the same width is three times as precise, in relation.
    assert changed["slope"]["images"] == pytest.approx(plain["slope"]["images"] / 9, abs=1)
    assert changed["net_benefit"]["images"] == pytest.approx(plain["net_benefit"]["images"], abs=1)


def test_another_prevalence_is_that_of_a_cohort_with_that_prevalence():
    target, score = cohort(40_000)
    few = np.flatnonzero(target)[::4]
    rows = np.concatenate([np.flatnonzero(target == 0), few])
    rare = float(target[rows].mean())
    foreseen = validation_sample_size(target, score, threshold=0.3, prevalence=rare)["criteria"]
    found = validation_sample_size(target[rows], score[rows], threshold=0.3)["criteria"]
    for name in found:
        assert foreseen[name]["images"] == pytest.approx(found[name]["images"], rel=0.03), name


def test_a_run_is_told_for_three_prevalences():
    target, score = cohort()
    found = sample_sizes(np.arange(4000), target, score, 0.3)
    assert [needed["prevalence"] for needed in found] == [0.05, 0.30, target.mean()]
    assert found[2] == validation_sample_size(target, score, threshold=0.3)


@pytest.mark.parametrize(("score", "reason"), [([0.1, 0.2, 0.8, 0.9], "separated"), ([0.4] * 4, "alike")])
def test_scores_that_tell_nothing(score, reason):
    found = validation_sample_size([0, 0, 1, 1], score)
    assert found["reason"] == reason
    assert found["images"] is found["pneumonia"] is found["patients"] is found["criterion"] is None
    assert found["criteria"] == {}


@pytest.mark.parametrize("threshold", [0.0, 1.0, 1.5])
def test_a_threshold_that_is_no_probability_has_no_net_benefit(threshold):
    found = validation_sample_size(*cohort(), threshold=threshold)
    assert found["criteria"]["net_benefit"] is None
    assert found["images"] > 0


@pytest.mark.parametrize(("change", "words"), [
    ({"score": [0.1, 0.9]}, "have 4, 2 and 4 entries"),
    ({"target": [0, 0, 0, 0]}, "must hold both 0"),
    ({"target": [0, 1, 2, 0]}, "must hold both 0"),
    ({"score": [0.1, 0.2, 0.3, 1.5]}, "from 0 to 1"),
    ({"score": [0.1, 0.2, 0.3, np.nan]}, "from 0 to 1"),
    ({"prevalence": 1.0}, "prevalence=1.0 must be between 0 and 1"),
])  # fmt: skip
def test_wrong_input(change, words):
    given = {"target": [0, 1, 0, 1], "score": [0.2, 0.4, 0.6, 0.8], **change}
    with pytest.raises(InputError, match=words):
        validation_sample_size(**given)
