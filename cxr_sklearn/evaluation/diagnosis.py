"""What stands out about a classifier; the report puts it into words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from sklearn.metrics import accuracy_score, balanced_accuracy_score

#: A classifier that calls more than this share of the images one class is useless.
ONE_CLASS = 0.95
#: Decisions at 0.5 are poor below this balanced accuracy, if the ranking is good: an AUC of at least this.
POOR_ACCURACY, GOOD_AUC = 0.65, 0.8


def diagnose(
    test: pd.DataFrame,
    auc: float,
    training: pd.DataFrame,
    batch_norm: Mapping[str, Any] | None,
) -> list[dict[str, Any]]:
    """Find what is wrong with a classifier: a list of "finding", "poor_at_half" or "memorises", and its figures.

    Parameters
    ----------
    test : DataFrame
        `target` and `score` of the test images.
    auc : float
        ROC AUC on them.
    training : DataFrame
        The rows of ``training.csv`` of this pipeline, if any.
    batch_norm : mapping or None
        ``batch_norm_scores_`` of a :class:`ScratchCNNClassifier`.
    """
    return [*_at_one_half(test, auc, batch_norm), *_memorising(training)]


def _at_one_half(test: pd.DataFrame, auc: float, batch_norm: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    called = test["score"] >= 0.5
    share, accuracy = float(called.mean()), float(accuracy_score(test["target"], called))
    balanced = balanced_accuracy_score(test["target"], called)
    one_class = max(share, 1 - share) >= ONE_CLASS
    if not one_class and (balanced >= POOR_ACCURACY or auc < GOOD_AUC):
        return []
    return [
        {
            "finding": "poor_at_half",
            "called": "pneumonia" if share >= 0.5 else "normal",
            "share": max(share, 1 - share),
            "accuracy": accuracy,
            "auc": auc,
            "ranks_well": auc >= GOOD_AUC,
            "batch_norm": _batch_norm_verdict(batch_norm),
        }
    ]


def _batch_norm_verdict(batch_norm: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if not batch_norm:
        return None
    if batch_norm["used"] == "exact":
        return {"verdict": "exact"}
    moving, exact = batch_norm["moving"]["accuracy"], batch_norm["exact"]["accuracy"]
    return {
        "verdict": "not_the_cause" if exact < moving + 0.05 else "the_cause",
        "exact": exact,
        "moving": moving,
        "n_images": batch_norm["n_images"],
        "part": batch_norm["part"],
    }


def _memorising(training: pd.DataFrame) -> list[dict[str, Any]]:
    if "val_loss" not in training:
        return []
    found = []
    for phase, rows in training.dropna(subset=["val_loss"]).groupby("phase", sort=False):
        best = rows.iloc[int(rows["val_loss"].argmin())]
        last = rows.iloc[-3:][["loss", "val_loss"]].median()  # single epochs fluctuate
        if last["val_loss"] > 1.25 * best["val_loss"] and last["loss"] < 0.8 * best["loss"]:
            found.append(
                {
                    "finding": "memorises",
                    "phase": str(phase),
                    "best_epoch": int(best["epoch"]),
                    "last_epoch": int(rows["epoch"].iloc[-1]),
                    "val_loss": [float(best["val_loss"]), float(last["val_loss"])],
                    "loss": [float(best["loss"]), float(last["loss"])],
                }
            )
    return found
