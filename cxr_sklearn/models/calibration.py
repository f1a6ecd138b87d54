"""Scores of a fitted pipeline, the probability of pneumonia, and their calibration afterwards."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import expit, logit
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator

from .._settings import usual_settings
from ..exceptions import DataError, ModelError


def pneumonia_scores(model: Any, X: Any) -> np.ndarray:
    """Return the probability of pneumonia, shape (n,) and dtype float64, of images in any form that the model takes.

    Raises
    ------
    ModelError
        If it gives no probabilities, or was not fitted on 0 (normal) and 1 (pneumonia).
    """
    classes = np.asarray(model.classes_).tolist()
    if classes != [0, 1]:
        raise ModelError(f"expected a model of the classes 0 (normal) and 1 (pneumonia), but its classes are {classes}")
    if not hasattr(model, "predict_proba"):
        raise ModelError("the model gives no probabilities; calibrate its classifier (CalibratedClassifierCV)")
    return model.predict_proba(X)[:, 1].astype(np.float64)


class KnownScores(ClassifierMixin, BaseEstimator):
    """Identity classifier over one column of scores, so that CalibratedClassifierCV can calibrate stored ones.

    A part of calibrators, not for use elsewhere.
    """

    @usual_settings
    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Keep the classes.

        Parameters
        ----------
        X : array-like of shape (n, 1)
        y : array-like of shape (n,)
        """
        self.classes_ = np.unique(y)
        return self

    @usual_settings
    def decision_function(self, X: ArrayLike) -> np.ndarray:
        """Return the logit of the scores, which temperature and sigmoid are defined on, shape (n,)."""
        return finite_log_odds(np.asarray(X, dtype=float)[:, 0])

    def predict(self, X: ArrayLike) -> np.ndarray:
        """Return the class of each score, shape (n,)."""
        return self.classes_[(self.decision_function(X) >= 0).astype(int)]


class PredictedScores(BaseEstimator):
    """First step of calibrated pipelines in the files of 0.1.0, which are taken apart when they are loaded."""

    def __init__(self, estimator: Any) -> None:
        self.estimator = estimator


def fit_calibrator(rows: pd.DataFrame, method: str) -> CalibratedClassifierCV:
    """Return what turns scores, shape (n, 1), into probabilities.

    Parameters
    ----------
    rows : DataFrame
        With `score` and `target`.
    method : {"temperature", "sigmoid", "isotonic"}

    Raises
    ------
    DataError
        If there are fewer than two images of a class.
    """
    column, target = rows[["score"]].to_numpy(dtype=float), rows["target"].to_numpy()
    known = KnownScores().fit(column, target)
    fewest = min(np.count_nonzero(target == label) for label in (0, 1))
    if fewest < 2:
        raise DataError("scores cannot be calibrated on fewer than two images of a class; hold more patients out")
    # Nothing is fitted in these folds, for the scores are known; but scikit-learn insists on both classes in each.
    return CalibratedClassifierCV(FrozenEstimator(known), method=method, cv=min(5, fewest)).fit(column, target)


def calibrated_scores(scores: np.ndarray, calibrator: CalibratedClassifierCV | None) -> np.ndarray:
    """Return scores of shape (n,) as calibrated probabilities; as they are where there is no calibrator."""
    if calibrator is None:
        return scores
    after = np.array(scores, dtype=float)
    known = np.isfinite(after)  # an image without a score is to stay without one, and not to stop the others
    if known.any():
        after[known] = calibrator.predict_proba(after[known][:, None])[:, 1]
    return after


def recalibrated(scores: np.ndarray, recalibration: tuple[float, float] | None) -> np.ndarray:
    """Return probabilities of shape (n,) after a linear map of their log odds, ``(intercept, slope)``, if there is one.

    References
    ----------
    Cox (1958). Two further applications of a model for binary regression. Biometrika 45, 562-565.
    """
    if recalibration is None:
        return scores
    intercept, slope = recalibration
    after: np.ndarray = expit(intercept + slope * finite_log_odds(scores))
    return after


#: Scores below it, and above 1 less it, count as these bounds: the log odds of 0 and 1 are infinite.
LEAST_SCORE = float(np.finfo(float).eps)


def finite_log_odds(scores: ArrayLike) -> np.ndarray:
    """Return the log odds of scores, shape (n,); scores of 0 and 1 count as the nearest to them that have any.

    A recalibration is fitted and applied on these. They keep the order of scores however near to 0 or 1 they are.
    """
    found: np.ndarray = logit(np.clip(np.asarray(scores, dtype=float), LEAST_SCORE, 1 - LEAST_SCORE))
    return found


METHODS = ("temperature", "sigmoid", "isotonic")
