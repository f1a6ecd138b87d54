"""Checks of labels, sample weights and patients, and which of them a step's ``fit`` takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.pipeline import Pipeline
from sklearn.utils import assert_all_finite, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import has_fit_parameter

from .exceptions import InputError


def fit_params(estimator: Any, **metadata: Any) -> dict[str, Any]:
    """Select the metadata that the estimator's ``fit`` accepts, by the names it expects.

    Of a pipeline, that is what its last step takes. None counts as not given.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> fit_params(make_pipeline(LogisticRegression()), sample_weight=[1, 2], groups=["a", "b"])
    {'logisticregression__sample_weight': [1, 2]}
    """
    if isinstance(estimator, Pipeline):
        name, last = estimator.steps[-1]
        return {f"{name}__{key}": value for key, value in fit_params(last, **metadata).items()}
    return {key: value for key, value in metadata.items() if value is not None and has_fit_parameter(estimator, key)}


def check_labels(y: ArrayLike | None, name: str) -> np.ndarray:
    """Return the labels as one dimension.

    Parameters
    ----------
    y : array-like of shape (n,)
    name : str
        Of the classifier, for the error.

    Raises
    ------
    ValueError
        If there are none, some are missing, or they are no classes.
    """
    if y is None:
        raise InputError(f"{name} requires y to be passed, but the target y is None")
    labels = column_or_1d(y, warn=True)
    if n_missing := int(pd.isna(labels).sum()):
        raise InputError(f"y lacks the label of {n_missing} images: Input y contains NaN")
    assert_all_finite(labels, input_name="y")
    check_classification_targets(labels)
    return labels


def check_groups(groups: ArrayLike | None, n: int) -> np.ndarray:
    """Return an integer for the group of each of `n` rows; None takes every row for a group of its own.

    Raises
    ------
    ValueError
        If there are more or fewer groups than rows, or some are missing.
    """
    if groups is None:
        return np.arange(n)
    codes, _ = pd.factorize(column_or_1d(groups))
    if len(codes) != n:
        raise InputError(f"groups holds {len(codes)} patients for {n} images")
    if (codes < 0).any():
        raise InputError(f"groups lacks the patient of {(codes < 0).sum()} images")
    return codes
