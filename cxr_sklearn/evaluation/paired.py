"""Paired tests of whether one classifier is better than another on the same images, or just luckier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import binomtest, norm, rankdata

from .._multiplicity import holm
from ..exceptions import DataError
from .bootstrap import Draws, interval
from .runs import Repeated, difference_over_runs


def delong_test(target: ArrayLike, score_a: ArrayLike, score_b: ArrayLike) -> dict[str, float]:
    """Test whether two classifiers have the same ROC AUC on the same images, by DeLong's method.

    It assumes that every image shows another patient; otherwise, trust the paired bootstrap.

    Parameters
    ----------
    target : array-like of shape (n,)
        0 or 1; both must occur twice.
    score_a, score_b : array-like of shape (n,)

    Returns
    -------
    dict of str to float
        "delta" (AUC of a minus AUC of b), its "standard_error" and the two-sided "p". If the error is 0, as for two
        identical rankings or a perfect ranking and its reverse, p is 1 for equal AUCs and else 0.

    Raises
    ------
    DataError
        If a class has fewer than two images.

    References
    ----------
    DeLong, DeLong, Clarke-Pearson (1988). Comparing the areas under two or more correlated receiver operating
    characteristic curves. Biometrics 44, 837-845.
    Sun, Xu (2014). Fast implementation of DeLong's algorithm. IEEE Signal Processing Letters 21, 1389-1393.
    """
    sick = np.asarray(target) == 1
    if min(sick.sum(), (~sick).sum()) < 2:
        raise DataError("DeLong's test needs two images of each class")
    shares = [placements(np.asarray(score, dtype=float), sick) for score in (score_a, score_b)]
    delta = float(shares[0][0].mean() - shares[1][0].mean())
    differences = [a - b for a, b in zip(*shares, strict=True)]
    error = float(np.sqrt(sum(np.var(part, ddof=1) / len(part) for part in differences)))
    p = float(2 * norm.sf(abs(delta) / error)) if error > 0 else float(delta == 0)
    return {"delta": delta, "standard_error": error, "p": p}


def placements(score: np.ndarray, sick: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return for each sick image the share of normal ones below it, and for each normal one that of sick ones above."""
    ranks = rankdata(score)
    above = (ranks[sick] - rankdata(score[sick])) / np.sum(~sick)
    return above, 1 - (ranks[~sick] - rankdata(score[~sick])) / np.sum(sick)


def mcnemar_test(target: ArrayLike, decision_a: ArrayLike, decision_b: ArrayLike) -> dict[str, float | int]:
    """Test exactly whether two classifiers are right equally often on the same images.

    Returns "only_a" and "only_b", the numbers of images that only one of them gets right, and the two-sided "p".

    References
    ----------
    McNemar (1947). Note on the sampling error of the difference between correlated proportions or percentages.
    Psychometrika 12, 153-157.
    """
    right_a, right_b = (np.asarray(decision) == np.asarray(target) for decision in (decision_a, decision_b))
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    p = float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    return {"only_a": only_a, "only_b": only_b, "p": p}


def compare_pairs(
    target: ArrayLike,
    scores: pd.DataFrame,
    thresholds: Mapping[str, float],
    draws: Mapping[str, Draws],
    repeated: Mapping[str, Repeated],
) -> list[dict[str, Any]]:
    """Compare every two pipelines, the columns of `scores`, on the same images; all draws are of one bootstrap.

    Returns
    -------
    list of dict
        "a", "b", "delta_auc" (AUC of a minus that of b), its "ci95" by paired bootstrap of patients, "delong" and
        "mcnemar", "p_holm" (DeLong's p, adjusted for the number of pairs), and "supported": the interval excludes 0 and
        the adjusted p is below .05. For two pipelines of which all training runs are known, the `repeated`, "runs" has
        the "delta_auc" of the means over the runs, its "ci95" over patients and runs, and "supported_by_patients", what
        "supported" would be without them; "supported" then also needs this interval to exclude 0, on the same side.
        "runs" is None for other pairs.
    """
    y = np.asarray(target)
    found: list[dict[str, Any]] = []
    for a, b in combinations(scores.columns, 2):
        decisions = [(scores[name] >= thresholds[name]).astype(int) for name in (a, b)]
        delong = delong_test(y, scores[a], scores[b])
        found.append(
            {
                "a": a,
                "b": b,
                "delta_auc": delong["delta"],
                "ci95": interval(draws[a].metrics["roc_auc"] - draws[b].metrics["roc_auc"], delong["delta"]),
                "delong": delong,
                "mcnemar": mcnemar_test(y, *decisions),
            }
        )
    for pair, p in zip(found, holm([pair["delong"]["p"] for pair in found]), strict=True):
        # Without an interval all draws have the same difference.
        ends = pair["ci95"] or [pair["delta_auc"]]
        pair |= {"p_holm": float(p), "supported": bool(p < 0.05 and _on_one_side(ends)), "runs": None}
        if pair["a"] in repeated and pair["b"] in repeated:
            one, other = repeated[pair["a"]], repeated[pair["b"]]
            delta = one.auc - other.auc
            over_runs = difference_over_runs(one, other)
            facts = {"ci95": over_runs and list(over_runs), "supported_by_patients": pair["supported"]}
            pair["runs"] = {"delta_auc": delta, **facts}
            pair["supported"] = pair["supported"] and _on_one_side([*ends, *(over_runs or [delta])])
    return found


def _on_one_side(ends: Sequence[float]) -> bool:
    return min(ends) > 0 or max(ends) < 0
