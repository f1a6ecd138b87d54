"""Where a score becomes a decision: chosen on validation or out-of-fold scores, never on test."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.metrics import confusion_matrix_at_thresholds

from ..datasets._frame import MIN_IMAGES_PER_CLASS
from ..exceptions import DataError, InputError
from .metrics import confusion_cells

#: What a rule aims at where its name stands alone.
_DEFAULTS = {"sensitivity": 0.95, "specificity": 0.90}
_WITHOUT_VALUE = ("youden", "robust")


class Rule(NamedTuple):
    """How a threshold is chosen.

    Attributes
    ----------
    name : {"youden", "robust", "sensitivity", "specificity", "cost", "fixed"}
    value : float
        The sensitivity or specificity wanted, the cost of a missed pneumonia in false alarms, or the threshold itself.
    """

    name: str
    value: float

    def __str__(self) -> str:
        if self.name == "fixed":
            return repr(self.value)
        return self.name if self.name in _WITHOUT_VALUE else f"{self.name}={self.value!r}"


def parse_rule(text: str) -> Rule:
    """Read a rule as it is typed: "youden", "robust", "sensitivity=.95", "specificity=.90", "cost=5:1" or a number.

    "sensitivity" and "specificity" alone ask for .95 and .90.

    Raises
    ------
    ValueError
        If it is none of these.
    """
    name, _, argument = text.strip().partition("=")
    try:
        if name in _WITHOUT_VALUE and not argument:
            return Rule(name, 0.0)
        if name in _DEFAULTS:
            return Rule(name, _within(float(argument or _DEFAULTS[name]), 1))
        if name == "cost":
            missed, _, alarm = argument.partition(":")
            costs = [_within(float(cost), np.finfo(float).max) for cost in (missed, alarm or "1")]
            return Rule("cost", _within(costs[0] / costs[1] or np.nan, np.finfo(float).max))
        return Rule("fixed", _within(float(text), 1))
    except (ValueError, ZeroDivisionError) as error:
        raise InputError(
            f"threshold={text!r} must be youden, robust, sensitivity=S, specificity=S, cost=MISSED:ALARM or a number, "
            "with S and the number from 0 to 1"
        ) from error


def _within(value: float, highest: float) -> float:
    if not 0 <= value <= highest:
        raise ValueError(value)
    return value


def find_threshold(rule: Rule, target: ArrayLike, score: ArrayLike) -> float:
    """Return the threshold that a rule finds among scores, half way to the next lower score.

    Parameters
    ----------
    rule : Rule
        "youden" and "robust" take the largest sensitivity + specificity - 1, the latter of changed images, too, if
        :func:`choose_threshold` has their scores; "sensitivity" takes the highest threshold that reaches it,
        "specificity" the lowest; "cost" the smallest sum of the costs of all wrong decisions.
    target : array-like of shape (n,)
        0 or 1; both must occur.
    score : array-like of shape (n,)

    References
    ----------
    Youden (1950). Index for rating diagnostic tests. Cancer 3, 32-35.
    """
    if rule.name == "fixed":
        return rule.value
    tn, fp, fn, tp, thresholds = confusion_matrix_at_thresholds(target, score)  # from the highest score down
    sensitivity, specificity = tp / (tp + fn), tn / (tn + fp)
    if rule.name == "sensitivity":
        best = int(np.argmax(sensitivity >= rule.value))
    elif rule.name == "specificity":
        kept = np.flatnonzero(specificity >= rule.value)
        best = int(kept[-1]) if len(kept) else -1
    elif rule.name == "cost":
        costs = np.append(tp[-1] * rule.value, rule.value * fn + fp)  # the first is that of calling nothing pneumonia
        best = int(np.argmin(costs)) - 1
    else:
        best = int(np.argmax(sensitivity + specificity))
    if best < 0:
        return float(np.nextafter(thresholds[0], np.inf))
    lower = thresholds[min(best + 1, len(thresholds) - 1)]
    return float((thresholds[best] + lower) / 2)


def images_to_choose_on(scores: pd.DataFrame) -> tuple[str, pd.DataFrame]:
    """Return "val" and the validation rows of one pipeline, or "out-of-fold" and its training rows if those are few."""
    val = scores[scores["split"] == "val"]
    if _rarer(val) >= MIN_IMAGES_PER_CLASS:
        return "val", val
    return "out-of-fold", scores[scores["split"] == "train"]


def _rarer(rows: pd.DataFrame) -> int:
    return min(int((rows["target"] == label).sum()) for label in (0, 1))


def choose_threshold(
    scores: pd.DataFrame, rule: Rule, changed: pd.DataFrame | None = None
) -> dict[str, float | int | str]:
    """Choose the threshold of one pipeline from its saved scores.

    Parameters
    ----------
    scores : DataFrame
        Rows of ``scores.csv`` of one pipeline.
    rule : Rule
    changed : DataFrame or None
        Scores of those images changed, rows of ``probes.csv``: "robust" looks at all of them alike. On images like
        those of the training a good classifier decides as well at .2 as at .8, and which of them is best is chance;
        where an image of another origin falls between, it is changed images that tell.

    Returns
    -------
    dict
        "value"; "rule"; "source", which is "val" where the validation split has enough images, else "out-of-fold", or
        "fixed"; "n_images" and the "sensitivity" and "specificity" there; "n_val" and "n_val_rarer", the size of the
        validation split and of its rarer class.

    Raises
    ------
    DataError
        If neither validation nor out-of-fold scores have both classes.
    """
    source, used = images_to_choose_on(scores)
    if _rarer(used) == 0:
        raise DataError("no threshold can be chosen: there are not both classes among the out-of-fold scores")
    seen = used
    if rule.name == "robust" and (changed is None or changed.empty):
        rule = Rule("youden", 0.0)  # of a pipeline that loads its images itself, none can be changed
    elif rule.name == "robust" and changed is not None:
        # Of held-out images, those as they are were scored by the same fit and are among `changed` already.
        has_clean = "probe" in changed and (changed["probe"] == "stress:clean").any()
        seen = pd.concat([changed, changed.iloc[:0] if has_clean else used])
    value = find_threshold(rule, seen["target"], seen["score"])
    cells = confusion_cells(used["target"], used["score"], value)
    val = scores[scores["split"] == "val"]
    return {
        "value": value,
        "rule": str(rule),
        "source": "fixed" if rule.name == "fixed" else source,
        "n_images": len(used),
        "sensitivity": cells["tp"] / (cells["tp"] + cells["fn"]),
        "specificity": cells["tn"] / (cells["tn"] + cells["fp"]),
        "n_val": len(val),
        "n_val_rarer": _rarer(val),
    }
