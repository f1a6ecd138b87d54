"""What a classifier would mean elsewhere: predictive values where pneumonia is rarer, and likelihood ratios."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.metrics import class_likelihood_ratios

from .bootstrap import Draws, interval

#: A screening ward, an emergency department; the sample's own prevalence is added to them.
PREVALENCES = (0.05, 0.30)


def predictive_values(sensitivity: Any, specificity: Any, prevalence: float) -> tuple[Any, Any]:
    """Positive and negative predictive value by Bayes' theorem.

    Parameters
    ----------
    sensitivity, specificity : float or ndarray
    prevalence : float

    Returns
    -------
    ppv, npv : float or ndarray
        NaN where nothing is called positive, or nothing negative.
    """
    true, false = sensitivity * prevalence, (1 - specificity) * (1 - prevalence)
    cleared, missed = specificity * (1 - prevalence), (1 - sensitivity) * prevalence
    with np.errstate(invalid="ignore"):
        return np.divide(true, true + false), np.divide(cleared, cleared + missed)


def elsewhere(target: ArrayLike, decision: ArrayLike, draws: Draws) -> dict[str, Any]:
    """Say what decisions would be worth at other prevalences.

    Sensitivity and specificity are taken to stay what they are, which another hospital need not grant.

    Parameters
    ----------
    target, decision : array-like of shape (n,)
        0 or 1.
    draws : Draws
        Of the same images, at the same threshold.

    Returns
    -------
    dict
        "likelihood_ratios" with "positive" and "negative", and "predictive_values", one entry per "prevalence" with
        "ppv" and "npv"; each with "value" and "ci95", None where it is not defined.
    """
    y, called = np.asarray(target), np.asarray(decision)
    sensitivity, specificity = called[y == 1].mean(), 1 - called[y == 0].mean()
    drawn = draws.metrics["recall"], draws.metrics["specificity"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UndefinedMetricWarning)  # the report says so itself
        positive, negative = class_likelihood_ratios(y, called, replace_undefined_by=np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn_ratios = drawn[0] / (1 - drawn[1]), (1 - drawn[0]) / drawn[1]
    tables = []
    for prevalence in (*PREVALENCES, float(y.mean())):
        values = predictive_values(sensitivity, specificity, prevalence)
        drawn_values = predictive_values(*drawn, prevalence)
        ppv, npv = (_with_interval(*pair) for pair in zip(values, drawn_values, strict=True))
        tables.append({"prevalence": prevalence, "ppv": ppv, "npv": npv})
    return {
        "likelihood_ratios": {
            "positive": _with_interval(positive, drawn_ratios[0]),
            "negative": _with_interval(negative, drawn_ratios[1]),
        },
        "predictive_values": tables,
    }


def _with_interval(value: float, draws: np.ndarray) -> dict[str, Any] | None:
    if not np.isfinite(value):
        return None
    with np.errstate(invalid="ignore"):  # in some draws no healthy image is called sick: the ratio is infinite there
        ends = interval(draws, float(value))
    return {"value": float(value), "ci95": ends and [end if np.isfinite(end) else None for end in ends]}
