"""How often the 95 % intervals hold the truth, in simulated cohorts of patients with several images each.

    python benchmarks/coverage.py [probabilities] [subgroups] [runs] [--cohorts 1000] [--images 600]

"probabilities": of one model, calibration, net benefit and adapted thresholds; "subgroups": what `--by` measures in
groups of patients, and the largest difference between these; "runs": the difference of two pipelines over several
training runs.

A patient's images share the class and a part of the score, so the images of one patient are far from independent. The
log odds of the scores are normal in each class, with the same spread, so that the scores are probabilities: the true
slope is 1, and net benefit is known at every threshold. Ends with status 1 where a share leaves 93 to 97 %, by more
than chance would let it. The largest difference is judged from below alone: its interval, widened for all pairs of
groups, may hold the truth more often.
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
from cxr_sklearn.evaluation.paired import compare_pairs
from cxr_sklearn.evaluation.runs import over_runs
from cxr_sklearn.evaluation.subgroups import divisions_of, predictive_values, rates_by_column
from cxr_sklearn.evaluation.thresholds import Rule

WANTED = (0.93, 0.97)
PREVALENCE, MEAN, WITHIN, BETWEEN = 0.4, 1.2, 0.8, 0.8
SPREAD = np.hypot(WITHIN, BETWEEN)
#: By name, the truth and the ends of an interval.
Intervals = dict[str, tuple[float, tuple[float, float]]]


def main() -> None:
    """Draw the cohorts, count, and judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)}; all without any")
    parser.add_argument("--cohorts", type=int, default=1000)
    parser.add_argument("--images", type=int, default=600)
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"unknown parts: {', '.join(sorted(unknown))}")
    hits: dict[str, list[bool]] = defaultdict(list)
    for part in options.parts or PARTS:
        for seed in range(options.cohorts):
            for name, (truth, ends) in PARTS[part](options.images, seed).items():
                hits[name].append(bool(ends[0] <= truth <= ends[1]))
    slack = 2 * np.sqrt(0.95 * 0.05 / options.cohorts)
    missed = False
    for name, found in hits.items():
        share = float(np.mean(found))
        missed |= share < WANTED[0] - slack or (share > WANTED[1] + slack and not name.startswith("largest"))
        print(f"{name:44} {100 * share:5.1f} % of {len(found)}")
    sys.exit(bool(missed))


def draw(n_images: int, seed: int, mean: float = MEAN) -> pd.DataFrame:
    """Return a cohort: `patient`, `target`, and `score`, the probability of pneumonia."""
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(n_images), rng.integers(1, 5, n_images))[:n_images]
    target = (rng.random(n_images) < PREVALENCE).astype(int)[patient]
    shared = rng.normal(0, BETWEEN, n_images)[patient]
    found = (2 * target - 1) * mean + shared + rng.normal(0, WITHIN, n_images)
    # By Bayes' theorem, for two normal distributions of one spread.
    odds = 2 * mean * found / SPREAD**2 + logit(PREVALENCE)
    return pd.DataFrame({"patient": patient, "target": target, "score": expit(odds)})


def true_rates(threshold: np.ndarray, mean: float = MEAN) -> tuple[np.ndarray, np.ndarray]:
    """Return the true sensitivity and specificity at thresholds."""
    cut = (logit(threshold) - logit(PREVALENCE)) * SPREAD**2 / (2 * mean)
    return norm.sf(cut, mean, SPREAD), norm.cdf(cut, -mean, SPREAD)


def probabilities(n_images: int, seed: int) -> Intervals:
    """Return the truth and the interval of what is measured of one model in a cohort."""
    cohort = draw(n_images, seed)
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


def adapted(cohort: pd.DataFrame) -> Intervals:
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


def subgroups(n_images: int, seed: int) -> Intervals:
    """Return the truth and the intervals in groups of patients who do not differ, for scores of two strengths."""
    found: Intervals = {}
    for kind, mean, cut in (("", MEAN, 0.5), ("low threshold, ", MEAN, 0.3), ("AUC near 1, ", 2.0, 0.5)):
        cohort = draw(n_images, seed, mean)
        # A report warns of what depends on few images or patients; that is left out here.
        two, four = (np.random.default_rng([seed, n]).integers(0, n, n_images)[cohort["patient"]] for n in (2, 4))
        rows = cohort.assign(path=cohort.index.astype(str), by_two=two.astype(str), by_four=four.astype(str))
        sensitivity, specificity = (float(rate) for rate in true_rates(np.array(cut), mean))
        ppv, npv = predictive_values(sensitivity, specificity, PREVALENCE)
        called = PREVALENCE * sensitivity + (1 - PREVALENCE) * (1 - specificity)
        truth = {"recall": sensitivity, "specificity": specificity, "precision": ppv, "npv": npv,
                 "called_pneumonia": called, "accuracy": PREVALENCE * sensitivity + (1 - PREVALENCE) * specificity,
                 "roc_auc": norm.cdf(np.sqrt(2) * mean / SPREAD)}  # fmt: skip
        for column, facts in rates_by_column(rows, divisions_of(rows), cut).items():
            for metric, value in truth.items():
                estimate = facts["groups"][0][metric]
                if not estimate["few"]:
                    found[f"{kind}one group of {column}: {metric}"] = (value, estimate["ci95"])
            for largest in facts["differences"]:
                found[f"largest difference, {kind}{column}: {largest['metric']}"] = (0.0, largest["ci95"])
    return found


def runs(n_images: int, seed: int) -> Intervals:
    """Return the truth and the interval of the difference of two equally good pipelines over their training runs.

    What a run makes of a patient, and of all patients, differs from run to run: by more than the difference would
    change with other patients, or by less.
    """
    cohort = draw(n_images // 2, seed)
    rng = np.random.default_rng([seed, 2])
    rows = cohort.assign(path=cohort.index.astype(str), split="test")
    fixed, rule = {"value": 0.5, "source": "fixed"}, Rule("fixed", 0.5)
    found: Intervals = {}
    for spread, of_run in (("small", 0.2), ("large", 1.0)):
        trained = {}
        for name in "ab":
            # What a pipeline makes of a patient in all runs, and what a run makes of each image and of pneumonia.
            odds = logit(cohort["score"]) + rng.normal(0, 0.5, n_images)[cohort["patient"]]
            noise = rng.normal(0, 0.5, (5, len(cohort))) + rng.normal(0, of_run, (5, 1)) * cohort["target"].to_numpy()
            trained[name] = [
                rows.assign(pipeline=name, run=run, score=expit(odds + shift)) for run, shift in enumerate(noise, 1)
            ]
        first = pd.DataFrame({name: tables[0]["score"] for name, tables in trained.items()})
        cuts = dict.fromkeys(first, 0.5)
        draws = bootstrap(rows["patient"], rows["target"], first, cuts, n_draws=100)
        for n in (3, 5):
            repeated = {
                name: over_runs(tables[0], pd.concat(tables[1:n]), rule, fixed) for name, tables in trained.items()
            }
            (pair,) = compare_pairs(rows["target"], first, cuts, draws, repeated)
            found[f"difference over {n} runs, {spread} spread"] = (0.0, pair["runs"]["ci95"])
    return found


PARTS = {"probabilities": probabilities, "subgroups": subgroups, "runs": runs}

if __name__ == "__main__":
    main()
