"""The metrics, each defined once, for a set of images and for thousands of bootstrap draws of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, DTypeLike
from sklearn.metrics import confusion_matrix


class Ranks(NamedTuple):
    """Drawn images from the highest score to the lowest, images of equal score together.

    Attributes
    ----------
    pneumonia, normal : ndarray of shape (n_draws, n_scores)
        Number of images of each class at each score.
    true, false : ndarray of shape (n_draws, n_scores)
        True and false positives where that score is the threshold: the cumulative sums of the above.
    """

    pneumonia: np.ndarray
    normal: np.ndarray
    true: np.ndarray
    false: np.ndarray


class Metric(NamedTuple):
    """How a metric is computed.

    Attributes
    ----------
    kind : {"rate", "decision", "loss", "ranking"}
        What the function takes and returns.
    function : callable
        For "rate", a share of images, and for "decision", any other metric that depends on the threshold: from the
        counts `tp, fn, fp, tn` to numerator and denominator, one entry per draw each; 0 / 0 is 0. For "loss": from
        target and score of each image to the image's contribution to a mean. For "ranking": from :class:`Ranks` to a
        value per draw.
    """

    kind: Literal["rate", "decision", "loss", "ranking"]
    function: Callable[..., Any]


def _roc_auc(ranks: Ranks) -> np.ndarray:
    # Pairs of a normal image and one with pneumonia in the right order, and half of those of equal score.
    pairs = _dot(ranks.normal, ranks.true - ranks.pneumonia / 2)
    return pairs / (ranks.true[:, -1].astype(float) * ranks.false[:, -1])


def _average_precision(ranks: Ranks) -> np.ndarray:
    called = ranks.true + ranks.false
    precision = np.divide(ranks.true, called, where=called > 0, out=np.zeros_like(called))
    return _dot(ranks.pneumonia, precision) / ranks.true[:, -1]


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Scalar product of every row of `a` with the same row of `b`."""
    return np.matmul(a[:, np.newaxis, :], b[:, :, np.newaxis])[:, 0, 0].astype(float)


#: In the order of the report's tables. A new metric is one line here; see CONTRIBUTING.md.
METRICS = {
    "accuracy": Metric("rate", lambda tp, fn, fp, tn: (tp + tn, tp + fn + fp + tn)),
    "precision": Metric("rate", lambda tp, fn, fp, tn: (tp, tp + fp)),
    "recall": Metric("rate", lambda tp, fn, fp, tn: (tp, tp + fn)),
    "specificity": Metric("rate", lambda tp, fn, fp, tn: (tn, tn + fp)),
    "f1": Metric("decision", lambda tp, fn, fp, tn: (2 * tp, 2 * tp + fn + fp)),
    "mcc": Metric(
        "decision",
        lambda tp, fn, fp, tn: (tp * tn - fn * fp, np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))),
    ),
    "roc_auc": Metric("ranking", _roc_auc),
    "average_precision": Metric("ranking", _average_precision),
    "log_loss": Metric("loss", lambda y, p: -np.log(np.clip(np.where(y, p, 1 - p), np.finfo(float).eps, 1))),
    "brier": Metric("loss", lambda y, p: (p - y) ** 2),
}


def _of_kind(*kinds: str) -> tuple[str, ...]:
    return tuple(name for name, metric in METRICS.items() if metric.kind in kinds)


RATES = _of_kind("rate")
#: Those that depend on where scores become decisions.
DECISION_METRICS = _of_kind("rate", "decision")
_LOSSES, _RANKINGS = _of_kind("loss"), _of_kind("ranking")


class Ranking:
    """Images from the highest score to the lowest, and what each contributes to the metrics.

    Parameters
    ----------
    target : ndarray of shape (n,)
        1 for pneumonia, 0 for normal.
    score : ndarray of shape (n,) and dtype float
    thresholds : sequence of float
        An image is called pneumonia where its score reaches the threshold.
    dtype : dtype
        Of the sums.

    Attributes
    ----------
    order : ndarray of shape (n,)
        Positions of the images, the highest score first.
    """

    def __init__(
        self, target: np.ndarray, score: np.ndarray, thresholds: Sequence[float], dtype: DTypeLike = float
    ) -> None:
        self.order = np.argsort(-score, kind="stable")
        score, positive = score[self.order], target[self.order] == 1
        self._positive = positive.astype(dtype)
        # The first image of every run of equal scores, which no threshold can separate.
        self._starts = np.flatnonzero(np.append(True, np.diff(score) != 0))
        columns = [METRICS[name].function(positive, score) for name in _LOSSES]
        for threshold in thresholds:
            called = score >= threshold
            columns += [positive & called, positive & ~called, ~positive & called, ~positive & ~called]
        self._columns = np.column_stack(columns).astype(dtype)

    def measure(self, drawn: np.ndarray) -> tuple[dict[str, np.ndarray], list[dict[str, np.ndarray]], Ranks]:
        """Compute the metrics of many draws.

        Parameters
        ----------
        drawn : ndarray of shape (n_draws, n)
            How often each image was drawn, in the order of :attr:`order`.

        Returns
        -------
        values : dict of str to ndarray of shape (n_draws,)
            The metrics that depend on no threshold, and "prevalence"; NaN where a draw lacks a class.
        decisions : list of dict of str to ndarray of shape (n_draws,)
            The others, for each threshold.
        ranks : Ranks
        """
        pneumonia = drawn * self._positive
        sums = (drawn @ self._columns).astype(float).T
        if len(self._starts) < drawn.shape[1]:
            drawn, pneumonia = (np.add.reduceat(weights, self._starts, axis=1) for weights in (drawn, pneumonia))
        normal = drawn - pneumonia
        ranks = Ranks(pneumonia, normal, np.cumsum(pneumonia, axis=1), np.cumsum(normal, axis=1))
        n_pneumonia, n_normal = ranks.true[:, -1].astype(float), ranks.false[:, -1].astype(float)
        both = (n_pneumonia > 0) & (n_normal > 0)
        losses, cells = np.split(sums, [len(_LOSSES)])
        with np.errstate(invalid="ignore", divide="ignore"):
            total = n_pneumonia + n_normal
            values = {**dict(zip(_LOSSES, losses / total, strict=True)), "prevalence": n_pneumonia / total}
            values |= {name: METRICS[name].function(ranks) for name in _RANKINGS}
            decisions = [
                {name: np.nan_to_num(np.divide(*METRICS[name].function(*counts))) for name in DECISION_METRICS}
                for counts in cells.reshape(-1, 4, len(drawn))
            ]
        for part in (values, *decisions):
            part |= {name: np.where(both, found, np.nan) for name, found in part.items()}
        return values, decisions, ranks


def compute_metrics(target: ArrayLike, score: ArrayLike, threshold: float) -> dict[str, float]:
    """Compute all metrics, by the names in ``METRICS``; both classes must occur in the target.

    An image is called pneumonia where its score reaches the threshold. Precision, F1 and MCC are 0 where none is.
    """
    ranking = Ranking(np.asarray(target), np.asarray(score, dtype=float), (threshold,))
    values, (decisions,), _ = ranking.measure(np.ones((1, len(ranking.order))))
    values |= decisions
    return {name: float(values[name][0]) for name in METRICS}


def confusion_cells(target: ArrayLike, score: ArrayLike, threshold: float) -> dict[str, int]:
    """Count true and false positives and negatives at a threshold, as "tp", "fn", "fp" and "tn"."""
    decision = (np.asarray(score, dtype=float) >= threshold).astype(int)
    (tn, fp), (fn, tp) = confusion_matrix(target, decision, labels=[0, 1]).tolist()
    return {"tp": tp, "fn": fn, "fp": fp, "tn": tn}
