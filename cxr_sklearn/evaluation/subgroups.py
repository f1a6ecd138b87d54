"""For whom a classifier fails: rates by subgroup, predictive values at other prevalences, errors."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.metrics import class_likelihood_ratios

from .bootstrap import Draws, bootstrap_rates, interval, rate
from .clustered import Estimate, difference, roc_auc, share
from .columns import BY, groups_of_column
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


#: What is measured in every group of a column, in the order of the report's tables.
COLUMN_RATES = ("recall", "specificity", "precision", "npv", "accuracy", "called_pneumonia", "roc_auc")
#: Of these, those whose largest difference between groups is looked at. The others depend on how frequent pneumonia is.
COMPARED = ("recall", "specificity", "roc_auc")


class Division(NamedTuple):
    """How a column divides images.

    Attributes
    ----------
    kind : {"values", "quartiles", "age"}
    groups : Series of ordered categories
        The group of each image by path; missing if it is not known.
    only : {"pneumonia", "normal"} or None
        The class that the column says something of, if it says nothing of the other.
    """

    kind: str
    groups: pd.Series
    only: str | None


def divisions_of(images: pd.DataFrame) -> dict[str, Division]:
    """Return how each column ``by_<name>`` of rows of ``images.csv`` divides them, by name."""
    found = {}
    for column in images.columns[images.columns.str.startswith(BY)]:
        name = column.removeprefix(BY)
        kind, groups = groups_of_column(name, images[column])
        silent = [label for label in (0, 1) if groups[images["target"] == label].isna().all()]
        only = ("pneumonia", "normal")[silent[0]] if len(silent) == 1 else None
        found[name] = Division(kind, groups.set_axis(images["path"]), only)
    return found


def rates_by_column(test: pd.DataFrame, divisions: Mapping[str, Division], threshold: float) -> dict[str, Any]:
    """Measure a pipeline in every group of test images, for each column of the user's.

    Where a column says something of one class only, as a subtype of pneumonia does, each of its groups is set against
    all images of the other class: that class's rate is common to all groups, and rates over both classes are left out.

    Returns
    -------
    dict
        By column: "kind" and "only", as in :class:`Division`; "groups", each with its name as "group" (None if it is
        not known), its numbers of "images" and "patients", and each of ``COLUMN_RATES``: None if it is not defined, or
        "value", "ci95" (None if it depends on one patient), the "images" and "patients" that it depends on and whether
        these are "few"; and "differences", the largest of each of ``COMPARED`` between two groups that are known and
        not few: "metric", "groups" (the higher first), "value", "ci95", the number of "pairs" of groups, for which the
        interval is widened by Bonferroni's method, and whether it is "supported", as the interval excludes 0.
    """
    patient_of = np.unique(test["patient"], return_inverse=True)[1]
    return {name: _of_column(test, patient_of, division, threshold) for name, division in divisions.items()}


def _of_column(test: pd.DataFrame, patient_of: np.ndarray, division: Division, threshold: float) -> dict[str, Any]:
    codes = division.groups.cat.codes.reindex(test["path"], fill_value=-1).to_numpy()
    names: list[Any] = [*division.groups.cat.categories, None]
    other = None if division.only is None else (test["target"] == (division.only == "normal")).to_numpy()
    groups, known = [], {}
    for code in [*range(len(names) - 1), -1]:
        inside = codes == code
        if other is not None:
            inside &= ~other
        if not inside.any():
            continue
        estimates = _estimates(test, patient_of, inside, other, threshold)
        counts = {"images": int(inside.sum()), "patients": len(np.unique(patient_of[inside]))}
        groups.append({"group": names[code], **counts, **{key: _described(e) for key, e in estimates.items()}})
        if code >= 0:
            known[names[code]] = estimates
    common = {"pneumonia": "specificity", "normal": "recall"}.get(division.only or "")
    compared = [metric for metric in COMPARED if metric != common]
    differences = [_largest(metric, {name: found[metric] for name, found in known.items()}) for metric in compared]
    return {
        "kind": division.kind,
        "only": division.only,
        "groups": groups,
        "differences": [found for found in differences if found],
    }


def _estimates(
    test: pd.DataFrame, patient_of: np.ndarray, inside: np.ndarray, other: np.ndarray | None, threshold: float
) -> dict[str, Estimate | None]:
    target, score = test["target"].to_numpy(), test["score"].to_numpy()
    sick, called = target == 1, score >= threshold
    members = inside if other is None else inside | other
    shares = {
        "recall": (called, sick),
        "specificity": (~called, ~sick),
        "precision": (sick, called),
        "npv": (~sick, ~called),
        "accuracy": (called == sick, members),
        "called_pneumonia": (called, members),
    }
    found = {
        metric: share(hits, members & of, patient_of) if other is None or metric in COMPARED else None
        for metric, (hits, of) in shares.items()
    }
    return found | {"roc_auc": roc_auc(target, score, members, patient_of)}


def _described(estimate: Estimate | None) -> dict[str, Any] | None:
    if estimate is None:
        return None
    ends = estimate.ends()
    counts = {"images": estimate.images, "patients": estimate.patients, "few": estimate.few}
    return {"value": estimate.value, "ci95": ends and list(ends), **counts}


def _largest(metric: str, estimates: Mapping[str, Estimate | None]) -> dict[str, Any] | None:
    """Return the largest difference of a metric between two groups, or None with fewer than two to compare."""
    enough = {name: estimate for name, estimate in estimates.items() if estimate and not estimate.few}
    pairs = list(combinations(sorted(enough, key=lambda name: -enough[name].value), 2))
    if not pairs:
        return None
    high, low = max(pairs, key=lambda pair: enough[pair[0]].value - enough[pair[1]].value)
    ends = difference(enough[high], enough[low], 1 - 0.05 / len(pairs))
    return {
        "metric": metric,
        "groups": [high, low],
        "value": enough[high].value - enough[low].value,
        "ci95": ends and list(ends),
        "pairs": len(pairs),
        "supported": ends is not None and ends[0] > 0,
    }


def n_group_comparisons(pipelines: Mapping[str, Any]) -> int:
    """Count the pairs of groups that were compared, over all columns, metrics and pipelines."""
    columns = [found for facts in pipelines.values() for found in facts["by"].values()]
    return sum(largest["pairs"] for found in columns for largest in found["differences"])


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
