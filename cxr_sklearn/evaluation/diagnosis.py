"""What stands out about a classifier, in plain words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

#: A classifier that calls more than this share of the images one class has told nobody anything.
ONE_CLASS = 0.95


def diagnose(
    test: pd.DataFrame,
    auc: float,
    training: pd.DataFrame,
    batch_norm: Mapping[str, Any] | None,
) -> list[str]:
    """Say in plain words what is wrong with a classifier; an empty list where nothing stands out.

    Parameters
    ----------
    test : DataFrame
        `target` and `score` of the test images.
    auc : float
        ROC AUC on them.
    training : DataFrame
        The rows of ``training.csv`` of this pipeline, maybe none.
    batch_norm : mapping or None
        ``batch_norm_scores_`` of a :class:`ScratchCNNClassifier`.
    """
    return [*_at_one_half(test, auc, batch_norm), *_memorising(training)]


def _at_one_half(test: pd.DataFrame, auc: float, batch_norm: Mapping[str, Any] | None) -> list[str]:
    called = test["score"] >= 0.5
    hits = [float((called == (test["target"] == 1))[test["target"] == label].mean()) for label in (0, 1)]
    share, accuracy = float(called.mean()), float((called == (test["target"] == 1)).mean())
    one_class = max(share, 1 - share) >= ONE_CLASS
    if not one_class and (np.mean(hits) >= 0.65 or auc < 0.8):
        return []
    what = "pneumonia" if share >= 0.5 else "normal"
    said = [
        f"At a threshold of 0.5 it calls {max(share, 1 - share):.0%} of the test images {what} (accuracy "
        f"{accuracy:.2f})."
    ]
    cured = _batch_norm_reason(batch_norm)
    if cured:
        said.append(cured)
    if auc >= 0.8:
        said.append(
            f"It ranks them well all the same (AUC {auc:.2f}): where the scores become a decision is the problem, and "
            "the metrics above are taken at a threshold chosen for it, not at 0.5."
        )
    elif not cured:
        said.append(f"Nor does it rank them well (AUC {auc:.2f}): it has learnt little that tells the classes apart.")
    return [" ".join(said)]


def _batch_norm_reason(batch_norm: Mapping[str, Any] | None) -> str:
    if not batch_norm:
        return ""
    if batch_norm["used"] == "exact":
        return "Its batch-norm statistics are exact, so they are not the reason."
    moving, exact = batch_norm["moving"]["accuracy"], batch_norm["exact"]["accuracy"]
    compared = (
        f"an accuracy of {exact:.2f} instead of {moving:.2f} on {batch_norm['n_images']} {batch_norm['part']} images"
    )
    if exact < moving + 0.05:
        return f"Exact batch-norm statistics would not have cured it: the same weights reach {compared}."
    return (
        "Its batch normalisation predicts with moving averages that have not caught up with the weights: with exact "
        f'statistics the same weights reach {compared}, so batch_norm_statistics="exact" would have cured it.'
    )


def _memorising(training: pd.DataFrame) -> list[str]:
    if "val_loss" not in training:
        return []
    said = []
    for phase, rows in training.dropna(subset=["val_loss"]).groupby("phase", sort=False):
        best = rows.iloc[int(np.argmin(rows["val_loss"]))]
        last = rows.iloc[-3:][["loss", "val_loss"]].median()  # single epochs go up and down
        rose, fell = last["val_loss"] > 1.25 * best["val_loss"], last["loss"] < 0.8 * best["loss"]
        if rose and fell:
            said.append(
                f"Training and validation part ways{' while the head learns alone' if phase == 'head' else ''}: from "
                f"epoch {best['epoch']} to {rows['epoch'].iloc[-1]} the loss rose from {best['val_loss']:.2f} to "
                f"{last['val_loss']:.2f} on the validation images and fell from {best['loss']:.2f} to "
                f"{last['loss']:.2f} on the training images. It memorises; with early stopping the weights of epoch "
                f"{best['epoch']} are kept."
            )
    return said
