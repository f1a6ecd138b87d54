"""Where a score becomes a decision: chosen on validation or out-of-fold scores, never on test."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.metrics import confusion_matrix, roc_curve

from ..exceptions import InputError

#: Below this many images of either class, validation scores cannot place a threshold.
MIN_IMAGES_PER_CLASS = 30
#: What a rule aims at where its name stands alone.
_DEFAULTS = {"youden": 0.0, "sensitivity": 0.95, "specificity": 0.90}


class Rule(NamedTuple):
    """How a threshold is chosen.

    Attributes
    ----------
    name : {"youden", "sensitivity", "specificity", "cost", "fixed"}
    value : float
        The sensitivity or specificity wanted, the cost of a missed pneumonia in false alarms, or the threshold itself.
    """

    name: str
    value: float

    def __str__(self) -> str:
        if self.name == "fixed":
            return f"{self.value:g}"
        return self.name if self.name == "youden" else f"{self.name}={self.value:g}"


def parse_rule(text: str) -> Rule:
    """Read a rule as it is typed: "youden", "sensitivity=.95", "specificity=.90", "cost=5:1" or a number like "0.5".

    Raises
    ------
    ValueError
        If it is none of these.
    """
    name, _, argument = text.strip().partition("=")
    try:
        if name in _DEFAULTS and not (name == "youden" and argument):
            rule = Rule(name, float(argument) if argument else _DEFAULTS[name])
        elif name == "cost":
            missed, _, alarm = argument.partition(":")
            rule = Rule("cost", float(missed) / float(alarm or 1))
        else:
            rule = Rule("fixed", float(text))
    except (ValueError, ZeroDivisionError):
        rule = Rule(text, -1)
    if not (0 < rule.value < np.inf if rule.name == "cost" else 0 <= rule.value <= 1):
        raise InputError(
            f"threshold={text!r} must be youden, sensitivity=S, specificity=S, cost=MISSED:ALARM or a number, with S "
            "and the number from 0 to 1"
        )
    return rule


def find_threshold(rule: Rule, target: ArrayLike, score: ArrayLike) -> float:
    """Return the threshold that a rule finds among scores, half way to the next lower score.

    Parameters
    ----------
    rule : Rule
        "youden" takes the largest sensitivity + specificity - 1; "sensitivity" the highest threshold that reaches it,
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
    fpr, tpr, thresholds = roc_curve(target, score, drop_intermediate=False)
    n_pneumonia = int(np.sum(np.asarray(target) == 1))
    missed, alarms = (1 - tpr) * n_pneumonia, fpr * (np.size(target) - n_pneumonia)
    tolerance = 1e-9  # 1 - 0.95 is not 0.05 in floats
    if rule.name == "sensitivity":
        best = int(np.argmax(tpr >= rule.value - tolerance))
    elif rule.name == "specificity":
        best = int(np.flatnonzero(fpr <= 1 - rule.value + tolerance)[-1])
    elif rule.name == "cost":
        best = int(np.argmin(rule.value * missed + alarms))
    else:
        best = 1 + int(np.argmax((tpr - fpr)[1:]))
    if best == 0:  # the first threshold is infinite: nothing is called pneumonia
        return float(np.nextafter(thresholds[1], np.inf))
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


def choose_threshold(scores: pd.DataFrame, rule: Rule) -> dict[str, float | int | str]:
    """Choose the threshold of one pipeline from its saved scores.

    Parameters
    ----------
    scores : DataFrame
        Rows of ``scores.csv`` of one pipeline.
    rule : Rule

    Returns
    -------
    dict
        "value"; "rule"; "source", which is "val" where the validation split has enough images, else "out-of-fold", or
        "fixed"; "n_images" and the "sensitivity" and "specificity" there; "n_val" and "n_val_rarer", the size of the
        validation split and of its rarer class.
    """
    source, used = images_to_choose_on(scores)
    value = find_threshold(rule, used["target"], used["score"])
    (tn, fp), (fn, tp) = confusion_matrix(used["target"], used["score"] >= value, labels=[0, 1]).tolist()
    val = scores[scores["split"] == "val"]
    return {
        "value": value,
        "rule": str(rule),
        "source": "fixed" if rule.name == "fixed" else source,
        "n_images": len(used),
        "sensitivity": tp / (tp + fn),
        "specificity": tn / (tn + fp),
        "n_val": len(val),
        "n_val_rarer": _rarer(val),
    }
