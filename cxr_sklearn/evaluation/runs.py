"""How much the chance of the training matters: figures of a pipeline over trainings that differ in their seeds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import t

from ..exceptions import DataError
from .clustered import roc_auc
from .metrics import METRICS, compute_metrics
from .thresholds import Rule, choose_threshold


class Repeated(NamedTuple):
    """A pipeline over its training runs.

    Attributes
    ----------
    facts : dict
        "runs" of metrics.json: their number "n"; "random", whether their scores differ; "thresholds", "own" if each run
        has chosen its own, "kept" if all decide at that of the first run, "fixed" if the threshold was set by hand;
        and, by metric on the test images, the "values" of all runs, the first one first, with their "mean", standard
        deviation "std", and range, "low" to "high".
    auc : float
        Mean ROC AUC.
    influence : ndarray of shape (n_runs, n_patients)
        How far each patient moves the AUC of each run, as in :class:`~cxr_sklearn.evaluation.clustered.Estimate`.
    patients : int
        Those of the rarer class.
    """

    facts: dict[str, Any]
    auc: float
    influence: np.ndarray
    patients: int


def over_runs(rows: pd.DataFrame, again: pd.DataFrame, rule: Rule, threshold: Mapping[str, Any]) -> Repeated:
    """Measure a pipeline over its training runs.

    Parameters
    ----------
    rows : DataFrame
        Rows of ``scores.csv`` of the pipeline: its first run.
    again : DataFrame
        Its rows of ``runs.csv``: the other runs, none if its training is not random.
    rule : Rule
    threshold : dict
        What :func:`choose_threshold` returned for the first run. Every run chooses its own, by the same rule, on its
        scores of the validation images. The first run's is kept if that was chosen on out-of-fold scores, or on changed
        images, which no other run has scored.

    Raises
    ------
    DataError
        If a run did not score the same test images as the first.
    """
    test = rows[rows["split"] == "test"]
    name, target = str(rows["pipeline"].iloc[0]), test["target"]
    chooses = threshold["source"] == "val" and rule.name != "robust"
    scores, cuts = {"1": test["score"].to_numpy(dtype=float)}, {"1": float(threshold["value"])}
    for run, part in again.groupby("run"):
        scores[str(run)] = _test_scores(part, test, f"run {run} of {name}")
        cuts[str(run)] = float(choose_threshold(part, rule)["value"]) if chooses else cuts["1"]
    patient_of, everybody = np.unique(test["patient"], return_inverse=True)[1], np.ones(len(test), dtype=bool)
    aucs = [roc_auc(target.to_numpy(), score, everybody, patient_of) for score in scores.values()]
    known = [estimate for estimate in aucs if estimate]
    by_run = pd.DataFrame([compute_metrics(target, scores[run], cuts[run]) for run in scores])
    spread = by_run.std() if len(scores) > 1 else by_run.iloc[0] * 0
    facts = {
        "n": len(scores),
        "random": any(not np.array_equal(score, scores["1"]) for score in scores.values()),
        "thresholds": "own" if chooses else "fixed" if threshold["source"] == "fixed" else "kept",
        "metrics": {
            metric: {
                "values": by_run[metric].tolist(),
                "mean": by_run[metric].mean(),
                "std": spread[metric],
                "low": by_run[metric].min(),
                "high": by_run[metric].max(),
            }
            for metric in METRICS
        },
    }
    auc = float(by_run["roc_auc"].mean())
    return Repeated(facts, auc, np.array([estimate.influence for estimate in known]), known[0].patients)


def difference_over_runs(a: Repeated, b: Repeated) -> tuple[float, float] | None:
    """Return the 95 % interval of the mean AUC of one pipeline minus that of another on the same images.

    It allows for other patients and for other runs; None if neither moves the difference at all. How much the mean of n
    runs varies from runs to runs is their variance over n. That holds what each run makes of these patients in
    particular, so only what the runs have in common is added for the patients: the mean covariance between two of them.
    The quantile is that of Student's t, with Satterthwaite's degrees of freedom for the sum.

    References
    ----------
    Satterthwaite (1946). An approximate distribution of estimates of variance components. Biometrics Bulletin 2,
    110-114.

    Bouthillier and others (2021). Accounting for variance in machine learning benchmarks. MLSys 3, 747-769.
    """
    common = _in_common(a.influence) + _in_common(b.influence) - 2 * float(np.mean(a.influence @ b.influence.T))
    variances, freedom = [max(common, 0.0)], [min(a.patients, b.patients) - 1]
    for one in (a, b):
        if (n := len(one.influence)) > 1:
            variances.append(one.facts["metrics"]["roc_auc"]["std"] ** 2 / n)
            freedom.append(n - 1)
    variance, squares = np.array(variances), np.square(variances)
    if not variance.sum():
        return None
    quantile = t.ppf(0.975, variance.sum() ** 2 / np.sum(squares / freedom))
    half = float(quantile * np.sqrt(variance.sum()))
    return a.auc - b.auc - half, a.auc - b.auc + half


def _in_common(influence: np.ndarray) -> float:
    """Return the mean covariance between the AUCs of two runs over patients; the variance if there is one run."""
    between = influence @ influence.T
    n = len(between)
    return float(between.sum() - np.trace(between)) / (n * (n - 1)) if n > 1 else float(between[0, 0])


def _test_scores(run: pd.DataFrame, test: pd.DataFrame, what: str) -> np.ndarray:
    """Return a run's scores of the test images, in the order of the first run, shape (n,)."""
    own = run[run["split"] == "test"]
    if sorted(own["path"]) != sorted(test["path"]):
        raise DataError(
            f"runs.csv: {what} did not score the same test images as the first run; `cxr-sklearn compare --repeats` "
            "writes it anew"
        )
    return own.set_index("path")["score"].reindex(test["path"]).to_numpy(dtype=float)
