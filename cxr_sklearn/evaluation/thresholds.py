"""Thresholds, from which a score means pneumonia: chosen on validation or out-of-fold scores, never on test."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import expit, logit, ndtr
from sklearn.metrics import confusion_matrix_at_thresholds

from ..datasets._frame import MIN_IMAGES_PER_CLASS
from ..exceptions import DataError, InputError
from .metrics import confusion_cells
from .tables import CLEAN, STRESS

#: The target of a rule that is named without one.
_DEFAULTS = {"sensitivity": 0.95, "specificity": 0.90}
_WITHOUT_VALUE = ("youden", "robust")
#: Probabilities closer to 0 or 1 than this are clipped: rounding dominates their log odds.
_SURE = 1e-7
_GRID = 1001


class Rule(NamedTuple):
    """How a threshold is chosen.

    Attributes
    ----------
    name : {"youden", "robust", "sensitivity", "specificity", "cost", "fixed"}
    value : float
        The sensitivity or specificity to reach, the cost of a missed pneumonia in false alarms, or the threshold.
    """

    name: str
    value: float

    def __str__(self) -> str:
        if self.name == "fixed":
            return repr(self.value)
        return self.name if self.name in _WITHOUT_VALUE else f"{self.name}={self.value!r}"


def parse_rule(text: str) -> Rule:
    """Parse "youden", "robust", "sensitivity=.95", "specificity=.90", "cost=5:1" or a number.

    "sensitivity" and "specificity" alone mean .95 and .90.

    Raises
    ------
    ValueError
        If `text` is something else.
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
    """Return the threshold that a rule finds, half way between two of the scores.

    The scores that reach it, ``score >= threshold`` in float64, are exactly those that the rule counted as pneumonia.

    Parameters
    ----------
    rule : Rule
        "youden" maximises sensitivity + specificity - 1, and "robust" the same after smoothing; "sensitivity" takes the
        highest threshold that reaches it, "specificity" the lowest; "cost" minimises the total cost of wrong decisions.
    target : array-like of shape (n,)
        0 or 1; both must occur.
    score : array-like of shape (n,)

    References
    ----------
    Youden (1950). Index for rating diagnostic tests. Cancer 3, 32-35.
    Fluss, Faraggi, Reiser (2005). Estimation of the Youden index and its associated cutoff point. Biometrical Journal
    47, 458-472.
    """
    if rule.name == "fixed":
        return rule.value
    if rule.name == "robust":
        return _smoothed_youden(np.asarray(target), np.asarray(score, dtype=float))
    # From the highest score down; in float64, as decisions are taken, because float32 would round the threshold.
    tn, fp, fn, tp, thresholds = confusion_matrix_at_thresholds(target, np.asarray(score, dtype=float))
    sensitivity, specificity = tp / (tp + fn), tn / (tn + fp)
    if rule.name == "sensitivity":
        best = int(np.argmax(sensitivity >= rule.value))
    elif rule.name == "specificity":
        kept = np.flatnonzero(specificity >= rule.value)
        best = int(kept[-1]) if len(kept) else -1
    elif rule.name == "cost":
        costs = np.append(tp[-1] * rule.value, rule.value * fn + fp)  # first, the cost of calling nothing pneumonia
        best = int(np.argmin(costs)) - 1
    else:
        best = int(np.argmax(sensitivity + specificity))
    if best < 0:
        return float(np.nextafter(thresholds[0], np.inf))
    lower = thresholds[min(best + 1, len(thresholds) - 1)]
    middle = (thresholds[best] + lower) / 2
    # Between neighbouring floats there is none, and the lower one is on the other side.
    return float(middle if middle > lower else thresholds[best])


def _smoothed_youden(target: np.ndarray, score: np.ndarray) -> float:
    """Return the threshold that maximises Youden's index after the distribution of each class is smoothed.

    With a few hundred images, one or two of them decide where the empirical index has its maximum; kernel estimates of
    the two distribution functions vary less (Fluss and others, 2005). Log odds are smoothed instead of probabilities,
    because those of a very confident network crowd at 0 and 1.
    """
    log_odds = logit(np.clip(score, _SURE, 1 - _SURE))
    grid = np.linspace(log_odds.min(), log_odds.max(), _GRID)
    normal, pneumonia = (_smoothed_cdf(log_odds[target == label], grid) for label in (0, 1))
    best = np.flatnonzero(normal - pneumonia >= np.max(normal - pneumonia) - 1e-12)
    return float(expit(grid[best].mean()))  # the middle of a plateau between the classes


def _smoothed_cdf(values: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Estimate P(value < point) for each point of a grid with a normal kernel of Silverman's width."""
    spreads = [np.std(values), np.subtract(*np.quantile(values, (0.75, 0.25))) / 1.34]
    width = 0.9 * min((s for s in spreads if s > 0), default=0.0) * len(values) ** -0.2
    # Values are first counted at the next grid point, so that memory depends only on the grid.
    counts = np.bincount(np.searchsorted(grid, values), minlength=len(grid))
    share: np.ndarray = ndtr((grid[:, None] - grid[None, :]) / max(width, 1e-9)) @ counts / len(values)
    return share


def images_to_choose_on(scores: pd.DataFrame) -> tuple[str, pd.DataFrame]:
    """Return "val" and a pipeline's validation rows, or "out-of-fold" and its training rows if val is too small."""
    val = scores[scores["split"] == "val"]
    if _rarer(val) >= MIN_IMAGES_PER_CLASS:
        return "val", val
    return "out-of-fold", scores[scores["split"] == "train"]


def _rarer(rows: pd.DataFrame) -> int:
    return min(int((rows["target"] == label).sum()) for label in (0, 1))


def choose_threshold(scores: pd.DataFrame, rule: Rule, changed: pd.DataFrame | None = None) -> dict[str, Any]:
    """Choose the threshold of one pipeline from its rows of ``scores.csv``.

    "robust" takes scores of the same images after changes, rows of ``probes.csv``. On images like those of the
    training, a good classifier decides as well at .2 as at .8, and chance picks one of them. Scores of images from
    elsewhere may lie in between, and changed images show where.

    Returns
    -------
    dict
        "value" and "rule"; "source": "val" if the validation split is large enough, else "out-of-fold", or "fixed";
        "n_images" of the source and "sensitivity" and "specificity" on them; "n_val" and "n_val_rarer", the sizes of
        the validation split and of its rarer class.

    Raises
    ------
    DataError
        If neither validation nor out-of-fold scores have both classes.
    """
    source, used = images_to_choose_on(scores)
    if _rarer(used) == 0:
        raise DataError("no threshold can be chosen: the out-of-fold scores are not of both classes")
    seen = used
    if rule.name == "robust" and (changed is None or changed.empty):
        rule = Rule("youden", 0.0)  # images of a pipeline without an ImageLoader cannot be changed
    elif rule.name == "robust" and changed is not None:
        # For held-out images, `changed` includes the unchanged ones, scored by the same fit.
        has_clean = "probe" in changed and (changed["probe"] == STRESS + CLEAN).any()
        seen = changed if has_clean else pd.concat([changed, used])
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
