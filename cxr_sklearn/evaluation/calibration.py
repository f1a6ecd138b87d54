"""Can a score be read as a probability? Measures of calibration, and calibration afterwards."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.calibration import CalibratedClassifierCV
from sklearn.metrics import d2_brier_score, roc_auc_score

from ..scores import fit_calibrator
from .bootstrap import Draws, interval, wilson
from .thresholds import images_to_choose_on

METHODS = ("temperature", "sigmoid", "isotonic")
N_BINS = 10


def calibration_facts(target: ArrayLike, score: ArrayLike, draws: Draws) -> dict[str, Any]:
    """Measure how far scores are from the share of images that are pneumonia.

    Parameters
    ----------
    target : array-like of shape (n,)
        1 for pneumonia, 0 for normal.
    score : array-like of shape (n,)
        Probability of pneumonia.
    draws : Draws
        Of the same images.

    Returns
    -------
    dict
        "brier_skill" (1 less the Brier score over that of always saying the prevalence; 0 is no better than that) with
        "value" and "ci95"; "ece", the expected calibration error: how far the mean score of ten equal bins is from
        the share of pneumonia in them, averaged over the images; and the "bins" themselves.

    References
    ----------
    Brier (1950). Verification of forecasts expressed in terms of probability. Monthly Weather Review 78, 1-3.
    Naeini, Cooper, Hauskrecht (2015). Obtaining well calibrated probabilities using Bayesian binning. AAAI, 2901-2907.
    """
    y, p = np.asarray(target), np.asarray(score, dtype=float)
    drawn = draws.metrics["prevalence"]
    with np.errstate(divide="ignore", invalid="ignore"):
        skill = 1 - draws.metrics["brier"] / (drawn * (1 - drawn))
    bins = _bins(y, p)
    value = float(d2_brier_score(y, p))
    return {
        "brier_skill": {"value": value, "ci95": interval(skill, value)},
        "ece": float(sum(part["n"] * abs(part["mean_score"] - part["observed"]) for part in bins) / len(y)),
        "bins": bins,
    }


def _bins(y: np.ndarray, p: np.ndarray) -> list[dict[str, Any]]:
    # As calibration_curve of scikit-learn, which keeps the sizes of the bins to itself.
    bin_of = np.searchsorted(np.linspace(0, 1, N_BINS + 1)[1:-1], p)
    found = []
    for i in np.unique(bin_of):
        inside = bin_of == i
        n, n_pneumonia = int(inside.sum()), int(y[inside].sum())
        found.append(
            {
                "n": n,
                "mean_score": float(p[inside].mean()),
                "observed": n_pneumonia / n,
                "ci95": wilson(n_pneumonia, n),
            }
        )
    return found


def calibrate(scores: pd.DataFrame, method: str) -> tuple[pd.DataFrame, CalibratedClassifierCV | None]:
    """Calibrate the scores of one pipeline on its validation images, or on its out-of-fold scores if those are few.

    Out-of-fold scores that calibrate are themselves calibrated by those of the other folds, so that their figures stay
    cross-validated.

    Parameters
    ----------
    scores : DataFrame
        Rows of ``scores.csv`` of one pipeline.
    method : {"temperature", "sigmoid", "isotonic"}

    Returns
    -------
    scores : DataFrame
        The same rows with calibrated scores.
    calibrator : CalibratedClassifierCV or None
        Takes scores, shape (n, 1). None where calibration would turn the ranking round or make all scores alike, as it
        does with scores that tell nothing; the scores are as they were then.

    References
    ----------
    Platt (1999). Probabilistic outputs for support vector machines. Advances in Large Margin Classifiers, 61-74.
    Zadrozny, Elkan (2002). Transforming classifier scores into accurate multiclass probability estimates. KDD, 694-699.
    Guo, Pleiss, Sun, Weinberger (2017). On calibration of modern neural networks. ICML, 1321-1330.
    """
    source, used = images_to_choose_on(scores)
    calibrator = fit_calibrator(used, method)
    if not _keeps_order(calibrator, used):
        return scores, None
    after = calibrated_rows(scores, calibrator)
    # Of one fold there are no others: its own scores are those of the calibration, a little too good.
    if source == "out-of-fold" and len(folds := used["fold"].unique()) > 1:
        for fold in folds:
            others = fit_calibrator(used[used["fold"] != fold], method)
            rows = used[used["fold"] == fold]
            after.loc[rows.index, "score"] = calibrated_rows(rows, others)["score"]
    return after, calibrator


def _keeps_order(calibrator: CalibratedClassifierCV, rows: pd.DataFrame) -> bool:
    if roc_auc_score(rows["target"], rows["score"]) <= 0.5:
        return False
    ends = np.array([[rows["score"].min()], [rows["score"].max()]])
    low, high = calibrator.predict_proba(ends)[:, 1]
    return bool(high > low)


def calibrated_rows(rows: pd.DataFrame, calibrator: CalibratedClassifierCV | None) -> pd.DataFrame:
    """Return rows with their `score` calibrated; as they are where there is no calibrator, or no row."""
    if calibrator is None or rows.empty:
        return rows
    return rows.assign(score=calibrator.predict_proba(rows[["score"]].to_numpy(dtype=float))[:, 1])
