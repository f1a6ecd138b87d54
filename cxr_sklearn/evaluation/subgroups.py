"""For whom a classifier fails: rates by subgroup, predictive values at other prevalences, errors."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.metrics import class_likelihood_ratios

from .bootstrap import Draws, bootstrap_rates, interval, rate
from .tables import TABLES


def groups_of(images: pd.DataFrame) -> pd.DataFrame:
    """Return the groups of each image by path: "subtype", "series" and, as quartiles from "1" (dark), "brightness".

    `images` are rows of ``images.csv``; an image that is in no group has a missing value.
    """
    bright = pd.to_numeric(images["brightness"])
    quartile = pd.Series(pd.NA, index=images.index, dtype="object")
    if bright.nunique() >= 4:
        quartile = pd.qcut(bright.rank(method="first"), 4, labels=list("1234")).astype(object)
    return images.assign(brightness=quartile).set_index("path")[["subtype", "series", "brightness"]]


def rates_by_group(test: pd.DataFrame, groups: pd.DataFrame, threshold: float) -> list[dict[str, Any]]:
    """Measure a pipeline's sensitivity and specificity in every group of test images, as of :func:`groups_of`.

    Returns
    -------
    list of dict
        "attribute", "group", "metric" ("recall" or "specificity"), the numbers of "images" and "patients", and the
        rate's "value", "ci95" and "method".
    """
    known = groups.reindex(test["path"]).reset_index(drop=True)
    target = test["target"].to_numpy()
    right = (test["score"].to_numpy() >= threshold) == (target == 1)
    found: list[dict[str, Any]] = []
    members = []
    for attribute, values in known.items():
        for group in sorted(values.dropna().unique()):
            for metric, label in (("recall", 1), ("specificity", 0)):
                inside = ((values == group) & (target == label)).to_numpy(dtype=bool)
                if inside.any():
                    counts = {"images": int(inside.sum()), "patients": int(test["patient"][inside].nunique())}
                    found.append({"attribute": attribute, "group": group, "metric": metric, **counts})
                    members.append(inside)
    if not found:
        return []
    inside = np.column_stack(members)
    draws = bootstrap_rates(test["patient"], np.broadcast_to(right[:, np.newaxis], inside.shape), inside)
    for i, row in enumerate(found):
        row |= rate(int(right[inside[:, i]].sum()), row["images"], draws[:, i])
    return found


def list_errors(scores: pd.DataFrame, images: pd.DataFrame, thresholds: Mapping[str, float]) -> pd.DataFrame:
    """Return rows of ``errors.csv``: every error on test, and by how much the score is on the wrong side.

    Parameters
    ----------
    scores, images : DataFrame
        Rows of ``scores.csv`` and ``images.csv``; the latter may be empty.
    thresholds : mapping of str to float
        By pipeline.

    Returns
    -------
    DataFrame
        By pipeline and kind ("false_negatives" or "false_positives"), the largest distance from the threshold first.
    """
    test = scores[scores["split"] == "test"]
    cut = test["pipeline"].map(thresholds).astype(float)
    called, sick = test["score"] >= cut, test["target"] == 1
    errors = test.assign(
        kind=np.where(sick, "false_negatives", "false_positives"),
        distance=(test["score"] - cut).abs(),
        subtype=test["path"].map(images.set_index("path")["subtype"]),
    )[called != sick].sort_values(["kind", "distance", "path"], ascending=[True, False, True])
    by_pipeline = pd.concat([errors[errors["pipeline"] == name] for name in thresholds])
    return by_pipeline[list(TABLES["errors"].columns)]


#: As in screening and in an emergency department; that of the sample is added to them.
PREVALENCES = (0.05, 0.30)


def predictive_values(sensitivity: Any, specificity: Any, prevalence: float) -> tuple[Any, Any]:
    """Return positive and negative predictive value, by Bayes' theorem, for numbers or arrays.

    They are NaN if no image is called positive or negative, respectively.
    """
    true, false = sensitivity * prevalence, (1 - specificity) * (1 - prevalence)
    cleared, missed = specificity * (1 - prevalence), (1 - sensitivity) * prevalence
    with np.errstate(invalid="ignore"):
        return np.divide(true, true + false), np.divide(cleared, cleared + missed)


def elsewhere(target: ArrayLike, decision: ArrayLike, draws: Draws) -> dict[str, Any]:
    """Compute the predictive value of decisions at other prevalences.

    It assumes that sensitivity and specificity stay the same, which may be wrong in another hospital. The draws are of
    the same images, at the same threshold.

    Returns
    -------
    dict
        "likelihood_ratios" with "positive" and "negative", and "predictive_values", one entry per "prevalence" with
        "ppv" and "npv"; each with "value" and "ci95", or None if it is undefined.
    """
    y, called = np.asarray(target), np.asarray(decision)
    sensitivity, specificity = called[y == 1].mean(), 1 - called[y == 0].mean()
    drawn = draws.metrics["recall"], draws.metrics["specificity"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UndefinedMetricWarning)  # the report says so
        positive, negative = class_likelihood_ratios(y, called, replace_undefined_by=np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn_ratios = drawn[0] / (1 - drawn[1]), (1 - drawn[0]) / drawn[1]
    ratios = map(_with_interval, (positive, negative), drawn_ratios)
    tables = []
    for prevalence in (*PREVALENCES, float(y.mean())):
        values = predictive_values(sensitivity, specificity, prevalence)
        ppv, npv = map(_with_interval, values, predictive_values(*drawn, prevalence))
        tables.append({"prevalence": prevalence, "ppv": ppv, "npv": npv})
    return {
        "likelihood_ratios": dict(zip(("positive", "negative"), ratios, strict=True)),
        "predictive_values": tables,
    }


def _with_interval(value: float, draws: np.ndarray) -> dict[str, Any] | None:
    if not np.isfinite(value):
        return None
    with np.errstate(invalid="ignore"):  # the ratio is infinite in draws without a false alarm
        ends = interval(draws, float(value))
    return {"value": float(value), "ci95": ends and [end if np.isfinite(end) else None for end in ends]}
