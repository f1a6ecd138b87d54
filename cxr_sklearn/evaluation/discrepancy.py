"""Causes of a confusion matrix that contradicts the metrics reported for the same classifier."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.optimize import minimize
from scipy.special import log_ndtr, ndtr, ndtri, xlogy
from scipy.stats import binomtest, chi2, fisher_exact

from .._settings import usual_settings
from .._validation import checks_types
from ..exceptions import InputError
from .metrics import METRICS

NONE, OTHER_IMAGES, SHUFFLED = "no discrepancy", "truncated or different set of images", "shuffled order of the images"
THRESHOLD, OTHER_INPUT = "moved threshold", "other preprocessing or other weights (checkpoint) at prediction"
VERDICTS = ("consistent", "unlikely", "ruled out")
#: p-values below which a cause is unlikely, and below which it is ruled out if the test makes no assumption on scores.
UNLIKELY, RULED_OUT = 0.05, 0.001
_USED = ("accuracy", "precision", "recall", "specificity", "f1", "roc_auc")
# Names in Keras and in the clinic.
_ALIASES = {"auc": "roc_auc", "sensitivity": "recall"}
Reported = dict[str, tuple[float, float]]
Row = tuple[str, str]


class Counts(NamedTuple):
    """The cells of a confusion matrix."""

    tp: int
    fn: int
    fp: int
    tn: int

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self._asdict().items())

    def rates(self) -> str:
        """Put the point on an ROC curve into words."""
        tpr, fpr = self.tp / (self.tp + self.fn), self.fp / (self.fp + self.tn)
        return f"recall {tpr:.3f} and false positive rate {fpr:.3f}"


@usual_settings
@checks_types
def diagnose_discrepancy(
    reported_metrics: Mapping[str, float], confusion_matrix: Mapping[str, int] | ArrayLike
) -> pd.DataFrame:
    """Judge possible causes of a contradiction between reported metrics and a confusion matrix of the same predictions.

    Each verdict is about one cause alone and never a proof: "consistent" means that no figure contradicts it.

    Parameters
    ----------
    reported_metrics : mapping of str to float
        Two or more of "accuracy", "precision", "recall", "specificity" and "f1", rounded as published; "roc_auc" and
        "n", the number of images, if known. "sensitivity" and "auc" are other names for two of them; the other names in
        ``METRICS`` are ignored.
    confusion_matrix : array-like of int, shape (2, 2), or mapping of str to int
        ``[[tn, fp], [fn, tp]]`` as in scikit-learn, or with the keys "tp", "fn", "fp" and "tn"; of both classes.

    Returns
    -------
    DataFrame of shape (4 or 5, 3)
        `cause`, `verdict` ("consistent", "unlikely" or "ruled out") and `reason`, sorted by verdict, then simpler
        causes first; "no discrepancy" has a row only if the matrix reproduces the reported metrics.

    Raises
    ------
    InputError
        If a metric is unknown or not a fraction, if fewer than two imply counts, or if the matrix does not hold counts.

    Notes
    -----
    On the same images two rules hold exactly: a shuffled order keeps the number of images called positive, and a moved
    threshold changes true and false positives in the same direction. Whether decisions depend on the labels, as they
    would not after shuffling, is tested by Fisher's exact test [1]_. A moved threshold is also judged by the AUC of the
    lowest and the highest curve through both points, and by a likelihood-ratio test of one binormal curve of equal
    spread [2]_. That test treats the matrices as independent, which makes it conservative; because real scores may
    spread unequally, it never rules anything out.

    References
    ----------
    .. [1] Fisher (1935). The logic of inductive inference. Journal of the Royal Statistical Society 98, 39-82.
    .. [2] Dorfman, Alf (1969). Maximum-likelihood estimation of parameters of signal-detection theory and determination
       of confidence intervals. Journal of Mathematical Psychology 6, 487-496.

    Examples
    --------
    >>> from cxr_sklearn import diagnose_discrepancy
    >>> reported = {"accuracy": 0.9103, "precision": 0.9138, "recall": 0.9060, "roc_auc": 0.9608, "n": 468}
    >>> diagnose_discrepancy(reported, [[228, 6], [103, 131]])["cause"][0]
    'other preprocessing or other weights (checkpoint) at prediction'
    """
    reported, n = _checked_metrics(reported_metrics)
    seen = _checked_counts(confusion_matrix)
    implied = _implied(reported, seen) if n in (None, sum(seen)) else []
    if seen in implied:
        rows = dict.fromkeys((OTHER_IMAGES, SHUFFLED, THRESHOLD, OTHER_INPUT), ("unlikely", f"Not needed: {NONE}."))
        rows = {NONE: ("consistent", f"The matrix ({seen}) reproduces every reported metric as rounded."), **rows}
    else:
        rows = _of_the_same_images(reported, n, seen, implied) if implied else _of_other_images(reported, n, seen)
    table = sorted(((cause, *row) for cause, row in rows.items()), key=lambda row: VERDICTS.index(row[1]))
    return pd.DataFrame(table, columns=["cause", "verdict", "reason"])


def _checked_metrics(given: Mapping[str, Any]) -> tuple[Reported, int | None]:
    given = {_ALIASES.get(name, name): value for name, value in given.items()}
    if unknown := sorted(set(given) - {*METRICS, "n"}):
        raise InputError(f"reported_metrics holds {unknown}; the names are {[*_USED, 'n']}")
    if len(set(given) & set(_USED[:5])) < 2:
        raise InputError(f"reported_metrics must hold two or more of {list(_USED[:5])} to imply counts")
    used = {name: given[name] for name in _USED if name in given}
    for name, value in used.items():
        if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not 0 <= value <= 1:
            raise InputError(f"{name}={value!r} must be a fraction from 0 to 1; divide a percentage by 100")
    if {"accuracy", "recall", "specificity"} <= set(used):
        low, high = sorted((used["recall"], used["specificity"]))
        if not low - 0.01 <= used["accuracy"] <= high + 0.01:
            raise InputError("the metrics contradict each other: accuracy lies between recall and specificity")
    n = given.get("n")
    if n is not None and (not isinstance(n, int | np.integer) or n < 1):
        raise InputError(f"n={n!r} must be a number of images")
    # Half a unit of the last decimal; .9 may stand for .90, and Keras computes in float32.
    half = {name: 0.5 * 10.0 ** int(Decimal(str(value)).as_tuple().exponent) for name, value in used.items()}
    metrics = {name: (float(value), min(half[name], 0.005) + 1e-6) for name, value in used.items()}
    return metrics, None if n is None else int(n)


def _checked_counts(given: Any) -> Counts:
    if isinstance(given, Mapping):
        given = [[given.get("tn"), given.get("fp")], [given.get("fn"), given.get("tp")]]
    cells = np.asarray(given)
    numbers = cells.shape == (2, 2) and cells.dtype.kind in "iuf" and np.isfinite(cells).all()
    if not numbers or (cells < 0).any() or (cells != np.round(cells)).any() or not cells.any(axis=1).all():
        layout = "[[tn, fp], [fn, tp]], whole numbers of images and some of either class"
        raise InputError(f"confusion_matrix must be {layout}, not {given!r}")
    return Counts(*cells.ravel()[[3, 2, 1, 0]].astype(int).tolist())


def _implied(reported: Reported, seen: Counts) -> list[Counts]:
    """Return all counts with the class sizes of the matrix that reproduce the reported metrics."""
    p, n, found = seen.tp + seen.fn, seen.fp + seen.tn, list[Counts]()
    fp = np.arange(n + 1)
    for tp in range(p + 1):  # one row at a time, so that thousands of images fit into memory
        values: Any = ((tp + n - fp) / (p + n), tp / np.maximum(tp + fp, 1), tp / p, 1 - fp / n, 2 * tp / (tp + fp + p))
        fits = np.ones(n + 1, dtype=bool)
        for name, value in zip(_USED[:5], values, strict=True):
            fits &= np.abs(value - reported[name][0]) <= reported[name][1] if name in reported else True
        found += [Counts(tp, p - tp, i, n - i) for i in np.flatnonzero(fits).tolist()]
    return found


def _of_other_images(reported: Reported, n: int | None, seen: Counts) -> dict[str, Row]:
    cells = {"recall": (seen.tp, seen.fn), "specificity": (seen.tn, seen.fp)}
    why = f"The metrics are of {n} images, the matrix of {sum(seen)}."
    if n in (None, sum(seen)):
        why = "No counts of as many images of each class reproduce the reported metrics, so they are not of these."
    rest = ("unlikely", f"Not needed: a {OTHER_IMAGES} explains that the counts differ.")
    for name, (hits, misses) in cells.items():
        rate = hits / (hits + misses)
        value, rounding = reported.get(name, (rate, 0.0))
        nearest = float(np.clip(rate, max(value - rounding, 0), min(value + rounding, 1)))
        if (p := binomtest(hits, hits + misses, nearest).pvalue) < RULED_OUT:
            why += f" That alone would hardly bring {name} from {value:.3f} to {rate:.3f} (p = {p:.2g})."
            rest = ("consistent", f"Other images leave this untested, but hardly explain the {name} alone.")
    return {OTHER_IMAGES: ("consistent", why), SHUFFLED: _shuffled(seen, []), THRESHOLD: rest, OTHER_INPUT: rest}


def _of_the_same_images(reported: Reported, n: int | None, seen: Counts, implied: list[Counts]) -> dict[str, Row]:
    # Of several possible counts, those that contradict a moved threshold least.
    near = min(
        implied, key=lambda c: ((c.tp - seen.tp) * (c.fp - seen.fp) < 0, abs(c.tp - seen.tp) + abs(c.fp - seen.fp))
    )
    other = ("ruled out", f"{n} images in both, and these counts reproduce every reported metric: {near}.")
    if n is None:
        other = ("unlikely", f"These counts reproduce every metric: {near}; only n, which is not given, could tell.")
    rows = {OTHER_IMAGES: other, SHUFFLED: _shuffled(seen, implied), THRESHOLD: _threshold(reported, near, seen)}
    if simpler := [cause for cause, (verdict, _) in rows.items() if verdict == "consistent"]:
        if simpler == [THRESHOLD]:
            why = f"Other inputs or weights can look like a {THRESHOLD}; compare the scores of a few images."
            return {**rows, OTHER_INPUT: ("consistent", why)}
        return {**rows, OTHER_INPUT: ("unlikely", f"Not needed: a {simpler[0]} explains the numbers.")}
    changed = f"true positives went from {near.tp} to {seen.tp} and false positives from {near.fp} to {seen.fp}"
    return {**rows, OTHER_INPUT: ("consistent", f"On the same images {changed}, and nothing simpler fits well.")}


def _shuffled(seen: Counts, implied: list[Counts]) -> Row:
    p = float(fisher_exact(np.reshape(seen, (2, 2))).pvalue)
    alike = "are alike, as after shuffling" if p >= UNLIKELY else "differ, and shuffling would make them alike"
    why = f"{seen.rates().capitalize()} {alike} (Fisher's exact test, p = {p:.2g})."
    called = {c.tp + c.fp for c in implied or [seen]}
    if not (kept := seen.tp + seen.fp in called):
        why += f" It also keeps the number called positive, {min(called)} by the metrics, not {seen.tp + seen.fp}."
    return "ruled out" if p < RULED_OUT else "consistent" if kept and p >= UNLIKELY else "unlikely", why


def _threshold(reported: Reported, near: Counts, seen: Counts) -> Row:
    way = f"from {near.rates()} to {seen.rates()}"
    if (near.tp - seen.tp) * (near.fp - seen.fp) < 0:
        return "ruled out", f"A threshold moves both rates up or both down, not {way}."
    auc, rounding = reported.get("roc_auc", (0.5, 0.5))
    low, high = _auc_bounds(near, seen)
    if not low - rounding <= auc <= high + rounding:
        return "ruled out", f"An ROC curve {way} has an AUC of {low:.3f} to {high:.3f}, not the reported {auc:.3f}."
    p = _equal_spread_p(near, seen)
    if p >= UNLIKELY:
        return "consistent", f"One binormal ROC curve of equal spread leads {way} (p = {p:.2g})."
    (hit, alarm), (hit_seen, alarm_seen) = _probits(near), _probits(seen)
    d_primes = f"d' {hit - alarm:.2f} and {hit_seen - alarm_seen:.2f}"
    why = f"One binormal ROC curve of equal spread hardly leads {way} ({d_primes}, p = {p:.2g})."
    if alarm != alarm_seen:
        slope = (hit - hit_seen) / (alarm - alarm_seen)
        area = ndtr((hit_seen - slope * alarm_seen) / np.hypot(1, slope))
        why += f" One of unequal spread, slope {slope:.1f} and AUC {area:.3f}, would."
    return "unlikely", why


def _auc_bounds(a: Counts, b: Counts) -> tuple[float, float]:
    """Return the smallest and the largest area under a rising curve through two points."""
    points = ((c.fp / (c.fp + c.tn), c.tp / (c.tp + c.fn)) for c in (a, b))
    (fpr_low, tpr_low), (fpr_high, tpr_high) = sorted(points)
    between, right = fpr_high - fpr_low, 1 - fpr_high
    return tpr_low * between + tpr_high * right, tpr_low * fpr_low + tpr_high * between + right


def _probits(c: Counts) -> tuple[float, float]:
    """Return the normal quantiles of both rates, kept finite by half an image."""
    hit, alarm = ndtri((c.tp + 0.5) / (c.tp + c.fn + 1)), ndtri((c.fp + 0.5) / (c.fp + c.tn + 1))
    return float(hit), float(alarm)


def _equal_spread_p(a: Counts, b: Counts) -> float:
    """Return p of a likelihood-ratio test of one d' for both points, with one degree of freedom.

    Both points are of the same images, so the test is conservative. Wald's would reject moves to the ends of the curve.
    """

    def misfit(parameters: np.ndarray) -> float:
        d, *cuts = parameters
        return -sum(
            c.tp * log_ndtr(d - cut) + c.fn * log_ndtr(cut - d) + c.fp * log_ndtr(-cut) + c.tn * log_ndtr(cut)
            for c, cut in zip((a, b), cuts, strict=True)
        )

    pairs = [pair for c in (a, b) for pair in ((c.tp, c.fn), (c.fp, c.tn))]
    best = sum(xlogy(k, k / (k + rest)) + xlogy(rest, rest / (k + rest)) for k, rest in pairs)
    (hit_a, alarm_a), (hit_b, alarm_b) = _probits(a), _probits(b)
    start = [(hit_a - alarm_a + hit_b - alarm_b) / 2, -alarm_a, -alarm_b]
    return float(chi2.sf(2 * (minimize(misfit, start).fun + best), 1))
