"""How well size and mode of an image file alone predict its label."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import mannwhitneyu
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.tree import DecisionTreeClassifier

_FOLDS = 5


def auc_of(features: np.ndarray, rows: pd.DataFrame) -> dict[str, float] | None:
    """Cross-validate a small decision tree on features of images, patient by patient.

    Parameters
    ----------
    features : ndarray of shape (n, k)
    rows : DataFrame of n rows
        With `target` and `patient`.

    Returns
    -------
    dict or None
        "value", the ROC AUC, and "p", that of a Mann-Whitney test; None where a class has fewer patients than folds.
    """
    target = rows["target"].to_numpy()
    n_patients = rows.groupby("target")["patient"].nunique()
    if len(n_patients) < 2 or n_patients.min() < _FOLDS:
        return None
    if (features == features[0]).all():
        return {"value": 0.5, "p": 1.0}
    folds = StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=0)
    tree = DecisionTreeClassifier(min_samples_leaf=max(2, min(10, len(rows) // 10)), random_state=0)
    scores = cross_val_predict(
        tree, features, target, groups=rows["patient"].to_numpy(), cv=folds, method="predict_proba"
    )[:, 1]
    test = mannwhitneyu(scores[target == 1], scores[target == 0])
    return {"value": float(roc_auc_score(target, scores)), "p": float(test.pvalue)}
