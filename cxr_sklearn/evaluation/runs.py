"""How much the chance of the training matters: figures of a pipeline over trainings that differ in their seeds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..exceptions import DataError
from .bootstrap import Draws, bootstrap
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
    draws : ndarray of shape (n_draws,)
        Draws of that mean, over patients and runs.
    """

    facts: dict[str, Any]
    auc: float
    draws: np.ndarray


def over_runs(
    rows: pd.DataFrame, again: pd.DataFrame, rule: Rule, threshold: Mapping[str, Any], draws: Draws, random_state: int
) -> Repeated:
    """Measure a pipeline over its training runs.

    The draws are those of the mean over the runs, by bootstrap of patients, plus the uncertainty of that mean for the
    runs: with n runs of standard deviation s, ``s / sqrt(n)`` times draws of Student's t with n - 1 degrees of freedom.
    Drawing n of the n runs with replacement would make intervals too narrow if they are few: it shrinks the variance of
    their mean by (n - 1) / n, and takes s for known. AUCs of runs with different seeds are roughly normal.

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
    draws : Draws
        Of the first run; the same patients are drawn for the others.
    random_state : int
        Of the draws of Student's t; another one for each pipeline.

    Raises
    ------
    DataError
        If a run did not score the same test images as the first.

    References
    ----------
    Bouthillier and others (2021). Accounting for variance in machine learning benchmarks. MLSys 3, 747-769.
    """
    test = rows[rows["split"] == "test"]
    name, target = str(rows["pipeline"].iloc[0]), test["target"]
    chooses = threshold["source"] == "val" and rule.name != "robust"
    scores, cuts = {"1": test["score"].to_numpy(dtype=float)}, {"1": float(threshold["value"])}
    for run, part in again.groupby("run"):
        scores[str(run)] = _test_scores(part, test, f"run {run} of {name}")
        cuts[str(run)] = float(choose_threshold(part, rule)["value"]) if chooses else cuts["1"]
    others = {run: score for run, score in scores.items() if run != "1"}
    drawn = [draws.metrics["roc_auc"]]
    drawn += [found.metrics["roc_auc"] for found in bootstrap(test["patient"], target, others, cuts).values()]
    by_run = pd.DataFrame([compute_metrics(target, scores[run], cuts[run]) for run in scores])
    spread = by_run.std() if others else by_run.iloc[0] * 0
    n = len(scores)
    noise = np.random.default_rng([1, random_state]).standard_t(max(n - 1, 1), len(drawn[0]))
    facts = {
        "n": n,
        "random": any(not np.array_equal(score, scores["1"]) for score in others.values()),
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
    return Repeated(facts, auc, np.mean(drawn, axis=0) + spread["roc_auc"] / np.sqrt(n) * noise)


def _test_scores(run: pd.DataFrame, test: pd.DataFrame, what: str) -> np.ndarray:
    """Return a run's scores of the test images, in the order of the first run, shape (n,)."""
    own = run[run["split"] == "test"]
    if sorted(own["path"]) != sorted(test["path"]):
        raise DataError(
            f"runs.csv: {what} did not score the same test images as the first run; `cxr-sklearn compare --repeats` "
            "writes it anew"
        )
    return own.set_index("path")["score"].reindex(test["path"]).to_numpy(dtype=float)
