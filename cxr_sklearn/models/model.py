"""CXRModel: a fitted pipeline with everything that its decisions depend on."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any, NoReturn

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from .._io import public
from .._settings import usual_settings
from .._validation import check_parameters
from ..exceptions import InputError, ModelError
from ..features.domain import DomainDetector
from .calibration import calibrated_scores, pneumonia_scores, recalibrated
from .exported import ExportedModel


@public
class CXRModel(ClassifierMixin, BaseEstimator):
    """A fitted pipeline that decides at its own threshold.

    :func:`train` returns it, :func:`compare` and :func:`save_model` write it to a file, :func:`load_model` reads it
    back, and :func:`predict`, :func:`explain` and ``cxr-sklearn serve`` take it. All of them decide alike.

    Parameters
    ----------
    pipeline : Pipeline or other classifier
        Fitted on 0 (normal) and 1 (pneumonia), from paths to probabilities.
    threshold : float, default=0.5
        An image is called pneumonia if its score reaches it. More than 1 calls nothing pneumonia.
    calibrator : CalibratedClassifierCV, optional
        From the scores of the pipeline, shape (n, 1), to probabilities.
    domain : DomainDetector, optional
        Fitted on the training images.
    metadata : dict, optional
        Facts about the model that JSON can hold. :func:`evaluate` and :func:`adapt` read those that :func:`train`
        writes, "recipe", "metrics", "data" and so on, and refuse them in another form.
    recalibration : tuple of two floats, optional
        Intercept and slope on the log odds of the probabilities, after calibration, as :func:`adapt` finds them for
        another place; the slope is above 0.

    Attributes
    ----------
    classes_ : ndarray of shape (2,)
        0 and 1, with the names `class_names`.
    class_names : tuple of str
        The second class is the positive one.

    See Also
    --------
    sklearn.model_selection.FixedThresholdClassifier : A threshold for any classifier. It compares float32 scores in
        float32, so a score that just reaches the threshold could be decided otherwise than in a table.

    Notes
    -----
    The model cannot be fitted again, because its threshold, calibrator and detector belong to this one fit.
    Cross-validation of it would score images that it has learnt from; cross-validate ``clone(model.pipeline)`` instead.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from cxr_sklearn import CXRModel, ShortcutFeatures, make_radiographs
    >>> images, frame = make_radiographs(10, size=64, random_state=0)
    >>> pipeline = make_pipeline(ShortcutFeatures(store=None), LogisticRegression(max_iter=5000))
    >>> model = CXRModel(pipeline.fit(images, frame["target"]), threshold=2)
    >>> model.predict(images).sum()
    np.int64(0)
    """

    class_names = ("normal", "pneumonia")

    def __init__(
        self,
        pipeline: Any,
        threshold: float = 0.5,
        *,
        calibrator: CalibratedClassifierCV | None = None,
        domain: DomainDetector | None = None,
        metadata: dict[str, Any] | None = None,
        recalibration: tuple[float, float] | None = None,
    ) -> None:
        self.pipeline = pipeline
        self.threshold = threshold
        self.calibrator = calibrator
        self.domain = domain
        self.metadata = metadata
        self.recalibration = recalibration

    @property
    def classes_(self) -> np.ndarray:
        """The classes of the pipeline, 0 and 1."""
        return self.pipeline.classes_

    def fit(self, X: Any, y: Any) -> NoReturn:
        """Refuse.

        Raises
        ------
        ModelError
            Always, see the notes of the class.
        """
        raise ModelError(
            "a CXRModel cannot be fitted again: its threshold belongs to this fit; fit or cross-validate "
            "clone(model.pipeline), or wrap the model in sklearn.frozen.FrozenEstimator"
        )

    @usual_settings
    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probabilities of normal and pneumonia, shape (n, 2) and dtype float64.

        Parameters
        ----------
        X : array-like of n paths, or images in any other form that the pipeline takes

        Raises
        ------
        ModelError
            If the pipeline gives no probabilities of 0 and 1.
        """
        check_threshold(self.threshold)
        check_recalibration(self.recalibration)
        check_parameters(self)
        if not hasattr(self.pipeline, "fit") or isinstance(self.pipeline, type):
            raise InputError(f"pipeline={self.pipeline!r} must be a classifier")
        check_is_fitted(self)
        scores = self.probabilities(pneumonia_scores(self.pipeline, X))
        return np.column_stack([1 - scores, scores])

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        """Return scores of the pipeline, shape (n,), calibrated and recalibrated."""
        return recalibrated(calibrated_scores(scores, self.calibrator), self.recalibration)

    def decide(self, probabilities: np.ndarray) -> np.ndarray:
        """Decide for each row of :meth:`predict_proba`: the position of its class, shape (n,).

        Raises
        ------
        ValueError
            If the threshold is not a finite number of at least 0.
        """
        check_threshold(self.threshold)
        # In float64: NumPy would round the threshold to compare it with float32.
        return (probabilities[:, 1].astype(float) >= float(self.threshold)).astype(int)

    @usual_settings
    def predict(self, X: Any) -> np.ndarray:
        """Return the class of each image at the threshold, shape (n,).

        Parameters
        ----------
        X : array-like of n paths, or images in any other form that the pipeline takes

        Raises
        ------
        ModelError
            If the pipeline gives an image no score; :func:`predict` decides on the others then.
        """
        probabilities = self.predict_proba(X)
        if n_missing := np.count_nonzero(~np.isfinite(probabilities[:, 1])):
            raise ModelError(f"the model gives {n_missing} of {len(probabilities)} images no score")
        return self.classes_[self.decide(probabilities)]

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self.pipeline, "classes_")


def check_threshold(threshold: Any) -> None:
    """Refuse a threshold that no score could be compared with.

    More than 1 is allowed: a rule may ask for no false alarm where the highest score is 1 exactly.

    Raises
    ------
    ValueError
        If it is not a finite number of at least 0.
    """
    is_number = isinstance(threshold, Real) and not isinstance(threshold, bool)
    if not is_number or not 0 <= threshold < math.inf:
        raise InputError(f"threshold={threshold!r} must be a finite number of at least 0")


def check_recalibration(recalibration: Any) -> None:
    """Refuse what is not a finite intercept and a slope above 0, or None.

    Raises
    ------
    ValueError
        If it is something else.
    """
    if recalibration is None:
        return
    is_pair = isinstance(recalibration, tuple | list) and len(recalibration) == 2
    if not is_pair or not all(isinstance(part, Real) and math.isfinite(part) for part in recalibration):
        raise InputError(f"recalibration={recalibration!r} must be None or two finite numbers, intercept and slope")
    if recalibration[1] <= 0:
        raise InputError(f"recalibration={recalibration!r} must have a slope above 0, or it would reverse the ranking")


def as_model(model: Any) -> CXRModel:
    """Return a model as it is, and a fitted pipeline as a model that decides at 0.5.

    Raises
    ------
    ModelError
        If it is neither, or is not fitted.
    """
    if isinstance(model, ExportedModel):
        raise ModelError("an exported model can predict and be served, but nothing else; give the one it was made from")
    if not isinstance(model, CXRModel | Pipeline):
        raise ModelError(f"expected a CXRModel or a fitted Pipeline, but got {type(model).__name__}")
    if not hasattr(model, "classes_"):
        raise ModelError("the pipeline is not fitted")
    return model if isinstance(model, CXRModel) else CXRModel(model)
