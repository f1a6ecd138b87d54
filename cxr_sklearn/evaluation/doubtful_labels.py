"""Labels that held-out scores contradict, by confident learning."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from .summary import SHORTCUTS
from .tables import TABLES

# The mean of equal numbers may be rounded to a little more than each of them.
_TOLERANCE = 1e-6


def confident_joint(target: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Count images by their label and by the class to which they confidently belong.

    An image confidently belongs to a class if its score for that class is at least the mean of the images labelled so.
    One that belongs to both counts for its label. That can happen only where scores are no higher, on average, with
    pneumonia than without; the reference then takes the class with the higher score, and a classifier that gives all
    images the same score would contradict all labels of a class.

    Parameters
    ----------
    target : array of int, shape (n,)
        Labels, both 0 and 1 among them.
    score : array of float, shape (n,)
        Probabilities of class 1, from models that were not trained on the image.

    Returns
    -------
    joint : array of int, shape (2, 2)
        Numbers of images by label (rows) and confident class (columns), without those that belong to neither.
    suspected : array of bool, shape (n,)
        Whether an image confidently belongs to the other class: the images off the diagonal.

    References
    ----------
    Northcutt, Jiang, Chuang (2021). Confident learning: estimating uncertainty in dataset labels. Journal of Artificial
    Intelligence Research 70. https://doi.org/10.1613/jair.1.12125
    """
    is_positive = target == 1
    normal = 1 - score >= (1 - score)[~is_positive].mean() - _TOLERANCE
    sick = score >= score[is_positive].mean() - _TOLERANCE
    own = np.where(is_positive, sick, normal)
    suspected = np.where(is_positive, normal, sick) & ~own
    joint = np.zeros((2, 2), dtype=int)
    np.add.at(joint, (target[own], target[own]), 1)
    np.add.at(joint, (target[suspected], 1 - target[suspected]), 1)
    return joint, suspected


def review_labels(scores: pd.DataFrame, images: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, Any] | None]:
    """Find the labels of training and validation images that deserve a second look; test images take no part.

    The images are ranked by self-confidence, the score for the class of their label. With two classes, the normalised
    margin is the same number. The scores are those of the pipeline that ranks these images best, by ROC AUC. Pipelines
    called "shortcuts" do not see the lungs, and do not count. An image with a copy that bears the other label comes
    first, because both labels can hardly be right.

    Parameters
    ----------
    scores, images : DataFrame
        Rows of ``scores.csv`` and ``images.csv``; the latter may be empty.

    Returns
    -------
    table : DataFrame
        Rows of ``doubtful_labels.csv``, the most doubtful label first.
    facts : dict or None
        Of metrics.json: the "pipeline" with its "roc_auc"; the numbers of "pipelines", of "images", of those
        "suspected", and of "contradicted_copies", which have a copy that bears the other label; and by class
        ("normal", "pneumonia") the numbers of "images" and of those "suspected", their "mean_score" for the class, and
        the estimated "noise", the share of wrong labels. None if there are no such scores, or of one class only.
    """
    held_out = scores[(scores["split"] != "test") & (scores["pipeline"] != SHORTCUTS)]
    by_name = {str(name): rows.set_index("path") for name, rows in held_out.groupby("pipeline", sort=False)}
    if not by_name or min(rows["target"].nunique() for rows in by_name.values()) < 2:
        return pd.DataFrame(columns=list(TABLES["doubtful_labels"].columns)), None
    auc = {name: float(roc_auc_score(rows["target"], rows["score"])) for name, rows in by_name.items()}
    best = max(auc, key=lambda name: auc[name])
    rows = by_name[best]
    joints = {name: confident_joint(found["target"].to_numpy(), found["score"].to_numpy())
              for name, found in by_name.items()}  # fmt: skip
    suspected = pd.DataFrame({name: pd.Series(mask, by_name[name].index) for name, (_, mask) in joints.items()})
    suspected = suspected.reindex(rows.index).fillna(False).astype(bool)
    table = rows.assign(
        self_confidence=np.where(rows["target"] == 1, rows["score"], 1 - rows["score"]),
        copy_of_other_label=rows.index.isin(_contradicted(images)).astype(int),
        pipelines=suspected.sum(axis=1),
    ).reset_index()
    listed = table[suspected[best].to_numpy() | (table["copy_of_other_label"] == 1)]
    listed = listed.sort_values(["copy_of_other_label", "self_confidence", "path"], ascending=[False, True, True])
    joint = joints[best][0]
    classes = {}
    for label, name in enumerate(("normal", "pneumonia")):
        own = table[table["target"] == label]
        classes[name] = {
            "images": len(own),
            "suspected": int(joint[label, 1 - label]),
            "mean_score": float(own["self_confidence"].mean()),
            "noise": float(joint[label, 1 - label] / joint[label].sum()),
        }
    facts = {"pipeline": best, "roc_auc": auc[best], "pipelines": len(by_name), "images": len(table), **classes}
    facts["suspected"] = int(suspected[best].sum())
    facts["contradicted_copies"] = int(table["copy_of_other_label"].sum())
    return listed[list(TABLES["doubtful_labels"].columns)], facts


def _contradicted(images: pd.DataFrame) -> pd.Series:
    """Return the paths of images with a copy, outside test, that bears the other label."""
    copied = images[images["copies"].notna() & (images["split"] != "test")]
    return copied["path"][copied.groupby("copies")["target"].transform("nunique") > 1]
