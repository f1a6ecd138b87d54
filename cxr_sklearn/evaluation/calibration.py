"""Can a score be read as a probability? Measures of calibration."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import d2_brier_score

from .bootstrap import Draws, interval, wilson

N_BINS = 10


def calibration_facts(target: ArrayLike, score: ArrayLike, draws: Draws) -> dict[str, Any]:
    """Compare scores with the share of images that show pneumonia.

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
        "brier_skill" with "value" and "ci95": the part of the Brier score of a constant forecast, the prevalence, that
        the scores avoid; "ece", the expected calibration error: the distance between mean score and share of pneumonia
        in ten equal bins, averaged over the images; and the "bins".

    References
    ----------
    Brier (1950). Verification of forecasts expressed in terms of probability. Monthly Weather Review 78, 1-3.
    Naeini, Cooper, Hauskrecht (2015). Obtaining well calibrated probabilities using Bayesian binning. AAAI, 2901-2907.
    """
    y, p = np.asarray(target), np.asarray(score, dtype=float)
    drawn = draws.metrics["prevalence"]
    with np.errstate(divide="ignore", invalid="ignore"):
        skill = 1 - draws.metrics["brier"] / (drawn * (1 - drawn))
    value = float(d2_brier_score(y, p))
    # As scikit-learn's calibration_curve, which does not return the sizes of the bins.
    bin_of = np.searchsorted(np.linspace(0, 1, N_BINS + 1)[1:-1], p)
    bins: list[dict[str, Any]] = []
    for inside in (bin_of == i for i in np.unique(bin_of)):
        n, n_pneumonia = int(inside.sum()), int(y[inside].sum())
        rate = {"observed": n_pneumonia / n, "ci95": wilson(n_pneumonia, n)}
        bins.append({"n": n, "mean_score": float(p[inside].mean()), **rate})
    return {
        "brier_skill": {"value": value, "ci95": interval(skill, value)},
        "ece": float(sum(part["n"] * abs(part["mean_score"] - part["observed"]) for part in bins) / len(y)),
        "bins": bins,
    }
