"""How often the 95 % intervals hold the truth, in simulated cohorts of patients with several images each.

    python benchmarks/coverage.py [--cohorts 1000] [--images 600]

A patient's images share the class and a part of the score, so the images of one patient are far from independent. The
log odds of the scores are normal in each class, with the same spread, so that the scores are probabilities: the true
slope is 1, and net benefit is known at every threshold. Ends with status 1 where a share leaves 93 to 97 %, by more
than chance would let it.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict

import numpy as np
import pandas as pd
from scipy.optimize import brentq
from scipy.special import expit, logit
from scipy.stats import norm
from sklearn.base import BaseEstimator, ClassifierMixin

from cxr_sklearn import CXRModel, adapt
from cxr_sklearn.evaluation.benefit import THRESHOLDS, net_benefit
from cxr_sklearn.evaluation.bootstrap import bootstrap
from cxr_sklearn.evaluation.calibration import calibration_facts

WANTED = (0.93, 0.97)
PREVALENCE, MEAN, WITHIN, BETWEEN = 0.4, 1.2, 0.8, 0.8
SPREAD = np.hypot(WITHIN, BETWEEN)


def main() -> None:
    """Draw the cohorts, count, and judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cohorts", type=int, default=1000)
    parser.add_argument("--images", type=int, default=600)
    options = parser.parse_args()
    hits: dict[str, list[bool]] = defaultdict(list)
    for seed in range(options.cohorts):
        for name, (truth, ends) in intervals(draw(options.images, seed)).items():
            hits[name].append(bool(ends[0] <= truth <= ends[1]))
    slack = 2 * np.sqrt(0.95 * 0.05 / options.cohorts)
    missed = False
    for name, found in hits.items():
        share = float(np.mean(found))
        missed |= not WANTED[0] - slack <= share <= WANTED[1] + slack
        print(f"{name:32} {100 * share:5.1f} % of {len(found)}")
    sys.exit(missed)


def draw(n_images: int, seed: int) -> pd.DataFrame:
    """Return a cohort: `patient`, `target`, and `score`, the probability of pneumonia."""
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(n_images), rng.integers(1, 5, n_images))[:n_images]
    target = (rng.random(n_images) < PREVALENCE).astype(int)[patient]
    shared = rng.normal(0, BETWEEN, n_images)[patient]
    found = (2 * target - 1) * MEAN + shared + rng.normal(0, WITHIN, n_images)
    # By Bayes' theorem, for two normal distributions of one spread.
    odds = 2 * MEAN * found / SPREAD**2 + logit(PREVALENCE)
    return pd.DataFrame({"patient": patient, "target": target, "score": expit(odds)})


def true_rates(threshold: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the true sensitivity and specificity at thresholds."""
    cut = (logit(threshold) - logit(PREVALENCE)) * SPREAD**2 / (2 * MEAN)
    return norm.sf(cut, MEAN, SPREAD), norm.cdf(cut, -MEAN, SPREAD)


def intervals(cohort: pd.DataFrame) -> dict[str, tuple[float, tuple[float, float]]]:
    """Return the truth and the interval of everything that is measured in a cohort."""
    patient, target, score = (cohort[name].to_numpy() for name in ("patient", "target", "score"))
    draws = bootstrap(patient, target, {"a": score}, {"a": 0.5})["a"]
    facts = calibration_facts(patient, target, score, draws)
    found = {"slope": (1.0, facts["slope"]["ci95"]), "calibration in the large": (0.0, facts["intercept"]["ci95"]),
             "observed / expected": (1.0, facts["observed_expected"]["ci95"])}  # fmt: skip
    curve = facts["curve"]
    for at in (12, 25, 37):
        found[f"smooth curve, point {at} of 50"] = (curve["score"][at], (curve["low"][at], curve["high"][at]))
    sensitivity, specificity = true_rates(THRESHOLDS)
    for i, curve in enumerate(facts["decision_curve"]):
        given, name = (curve["prevalence"], f"{100 * curve['prevalence']:.0f} % ill") if i else (PREVALENCE, "as drawn")
        for at in (9, 29, 49, 69):
            truth = net_benefit(sensitivity[at], specificity[at], given, curve["threshold"][at])
            found[f"net benefit {name}, score {THRESHOLDS[at]:.1f}"] = (truth, (curve["low"][at], curve["high"][at]))
    return found | adapted(cohort)


class KnownScores(ClassifierMixin, BaseEstimator):
    """A classifier that gives each image the score that is its name."""

    classes_ = np.array([0, 1])

    def predict_proba(self, X: list[str]) -> np.ndarray:
        """Return the scores."""
        score = np.array([float(name) for name in X])
        return np.column_stack([1 - score, score])


def adapted(cohort: pd.DataFrame) -> dict[str, tuple[float, tuple[float, float]]]:
    """Return the true threshold at which as many are called as are ill, and the interval of an adapted one."""

    def surplus(threshold: float) -> float:
        sensitivity, specificity = true_rates(np.array(threshold))
        return float(PREVALENCE * sensitivity + (1 - PREVALENCE) * (1 - specificity) - PREVALENCE)

    truth = brentq(surplus, 0.001, 0.999)
    images = pd.DataFrame({"path": cohort["score"].map(repr), "patient": cohort["patient"]})
    # Somebody else's estimate of the prevalence, with a standard error of .15 on the log odds.
    error = np.random.default_rng(len(cohort) + int(1e9 * cohort["score"].iloc[0])).normal(0, 0.15)
    estimate = expit(logit(PREVALENCE) + error + 1.96 * 0.15 * np.array([-1, 1]))
    found = {}
    for name, prevalence in (("known", PREVALENCE), ("estimated", tuple(estimate.tolist()))):
        model = adapt(CXRModel(KnownScores()), images, prevalence=prevalence)
        found[f"threshold, prevalence {name}"] = (truth, (model.metadata or {})["adapted"][0]["threshold"]["ci95"])
    return found


if __name__ == "__main__":
    main()
