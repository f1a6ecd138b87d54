"""The metrics of every table, computed in one place from targets, scores and a threshold."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    brier_score_loss,
    confusion_matrix,
    f1_score,
    log_loss,
    matthews_corrcoef,
    precision_score,
    recall_score,
    roc_auc_score,
)

#: Those that depend on where scores become decisions.
DECISION_METRICS = ("accuracy", "precision", "recall", "specificity", "f1", "mcc")
METRICS = (*DECISION_METRICS, "roc_auc", "average_precision", "log_loss", "brier")


def compute_metrics(target: ArrayLike, score: ArrayLike, threshold: float) -> dict[str, float]:
    """Compute all metrics with scikit-learn; an image is called pneumonia where its score reaches the threshold.

    Parameters
    ----------
    target : array-like of shape (n,)
        1 for pneumonia, 0 for normal; both must occur.
    score : array-like of shape (n,)
        Probability of pneumonia.
    threshold : float

    Returns
    -------
    dict of str to float
        By the names in ``METRICS``. Precision, F1 and MCC are 0 where nothing is called pneumonia.
    """
    y, p = np.asarray(target), np.asarray(score, dtype=float)
    decision = (p >= threshold).astype(int)
    values = (
        accuracy_score(y, decision),
        precision_score(y, decision, zero_division=0),
        recall_score(y, decision),
        recall_score(y, decision, pos_label=0),
        f1_score(y, decision, zero_division=0),
        matthews_corrcoef(y, decision),
        roc_auc_score(y, p),
        average_precision_score(y, p),
        log_loss(y, p),
        brier_score_loss(y, p),
    )
    return {name: float(value) for name, value in zip(METRICS, values, strict=True)}


def confusion_cells(target: ArrayLike, score: ArrayLike, threshold: float) -> dict[str, int]:
    """Count true and false positives and negatives at a threshold.

    Returns
    -------
    dict of str to int
        Keys "tp", "fn", "fp", "tn"; pneumonia is positive.
    """
    decision = (np.asarray(score, dtype=float) >= threshold).astype(int)
    (tn, fp), (fn, tp) = confusion_matrix(target, decision, labels=[0, 1]).tolist()
    return {"tp": tp, "fn": fn, "fp": fp, "tn": tn}


def confusion_metrics(tp: ArrayLike, fn: ArrayLike, fp: ArrayLike, tn: ArrayLike) -> dict[str, np.ndarray]:
    """Compute the metrics that depend on the threshold from many confusion matrices at a time.

    Parameters
    ----------
    tp, fn, fp, tn : array-like of shape (n,)
        Counts of images; pneumonia is positive.

    Returns
    -------
    dict of str to ndarray of shape (n,) and dtype float64
        By the names in ``DECISION_METRICS``, as :func:`compute_metrics` has them; NaN where a class is missing.
    """
    tp, fn, fp, tn = (np.asarray(cell, dtype=float) for cell in (tp, fn, fp, tn))

    def share(part: np.ndarray, whole: np.ndarray, otherwise: float) -> np.ndarray:
        return np.divide(part, whole, where=whole > 0, out=np.full(np.shape(whole), otherwise))

    margins = np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    values = (
        share(tp + tn, tp + fn + fp + tn, np.nan),
        share(tp, tp + fp, 0.0),
        share(tp, tp + fn, np.nan),
        share(tn, fp + tn, np.nan),
        share(2 * tp, 2 * tp + fn + fp, 0.0),
        share(tp * tn - fn * fp, margins, 0.0),
    )
    return dict(zip(DECISION_METRICS, values, strict=True))
