"""Where a score becomes a decision: chosen on validation or out-of-fold scores, never on test."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.metrics import roc_curve

#: Below this many images of either class, validation scores cannot place a threshold.
MIN_IMAGES_PER_CLASS = 30


def youden_threshold(target: ArrayLike, score: ArrayLike) -> float:
    """Threshold of the largest sensitivity + specificity - 1, half way to the next lower score.

    Parameters
    ----------
    target : array-like of shape (n,)
        0 or 1; both must occur.
    score : array-like of shape (n,)

    References
    ----------
    Youden (1950). Index for rating diagnostic tests. Cancer 3, 32-35.
    """
    fpr, tpr, thresholds = roc_curve(target, score, drop_intermediate=False)
    best = 1 + int(np.argmax((tpr - fpr)[1:]))  # the first threshold is infinite: nothing is called positive
    lower = thresholds[min(best + 1, len(thresholds) - 1)]
    return float((thresholds[best] + lower) / 2)


def choose_threshold(scores: pd.DataFrame) -> dict[str, float | str]:
    """Choose the threshold of one pipeline from its saved scores.

    Parameters
    ----------
    scores : DataFrame
        Rows of ``scores.csv`` of one pipeline.

    Returns
    -------
    dict
        "value"; "source", which is "val" where the validation split has enough images, else "out-of-fold"; and
        "reason", a sentence for people.
    """
    val, folds = scores[scores["split"] == "val"], scores[scores["split"] == "train"]
    n_rarer = min((val["target"] == label).sum() for label in (0, 1))
    if n_rarer >= MIN_IMAGES_PER_CLASS:
        source, used, reason = "val", val, f"Youden's index on the {len(val):,} validation images"
    else:
        source, used = "out-of-fold", folds
        has = f"has only {n_rarer} images of its rarer class" if len(val) else "does not exist"
        reason = f"Youden's index on {len(folds):,} out-of-fold training scores: the validation split {has}"
    return {"value": youden_threshold(used["target"], used["score"]), "source": source, "reason": reason}
