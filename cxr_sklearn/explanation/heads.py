"""The gradient of a scikit-learn classifier's score with respect to the features it was given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.special import expit
from sklearn.decomposition import PCA
from sklearn.feature_selection import SelectorMixin
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler

#: Activations of MLPClassifier, and their derivatives as functions of what they return.
_ACTIVATIONS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]] = {
    "identity": (lambda z: z, np.ones_like),
    "relu": (lambda z: np.maximum(z, 0), lambda a: (a > 0).astype(float)),
    "tanh": (np.tanh, lambda a: 1 - a**2),
    "logistic": (expit, lambda a: a * (1 - a)),
}


def obstacle(between: list[Any], head: Any) -> str | None:
    """Say which step has no gradient here; None where all have one.

    Parameters
    ----------
    between : list of fitted transformers
        What features meet before the classifier.
    head : fitted classifier
    """
    for step in between:
        if not isinstance(step, StandardScaler | PCA | SelectorMixin):
            return f"{type(step).__name__} is none of StandardScaler, PCA and feature selection"
    if not (isinstance(head, MLPClassifier) or hasattr(head, "coef_")):
        return f"{type(head).__name__} is neither a linear classifier (with coef_) nor an MLPClassifier"
    return None


def feature_gradient(between: list[Any], head: Any, features: np.ndarray) -> np.ndarray:
    """Return the gradient of the score of class 1 before it becomes a probability.

    Exact: the coefficients of a linear classifier, the chain rule through a perceptron.

    Parameters
    ----------
    between : list of fitted transformers
    head : fitted classifier
        For which :func:`obstacle` has nothing to say.
    features : ndarray of shape (n, d)

    Returns
    -------
    ndarray of shape (n, d) and dtype float64
    """
    entering = features.astype(np.float64)
    for step in between:
        entering = step.transform(entering)
    gradient = (
        _perceptron(head, entering)
        if isinstance(head, MLPClassifier)
        else np.repeat(np.asarray(head.coef_, dtype=np.float64).reshape(1, -1), len(features), axis=0)
    )
    for step in reversed(between):
        gradient = _pulled_back(step, gradient)
    return gradient


def _perceptron(head: MLPClassifier, inputs: np.ndarray) -> np.ndarray:
    activation, derivative = _ACTIVATIONS[head.activation]
    outputs, slopes = inputs, []
    for weights, bias in zip(head.coefs_[:-1], head.intercepts_[:-1], strict=True):
        outputs = activation(outputs @ weights + bias)
        slopes.append(derivative(outputs))
    gradient = np.repeat(head.coefs_[-1].T, len(inputs), axis=0)
    for weights, slope in zip(reversed(head.coefs_[:-1]), reversed(slopes), strict=True):
        gradient = (gradient * slope) @ weights.T
    return gradient


def _pulled_back(step: Any, gradient: np.ndarray) -> np.ndarray:
    """Multiply with the transposed matrix of a step that is linear but for an offset."""
    if isinstance(step, StandardScaler):
        return gradient if step.scale_ is None else gradient / step.scale_
    if isinstance(step, PCA):
        scale = np.sqrt(step.explained_variance_) if step.whiten else 1.0
        pulled: np.ndarray = (gradient / scale) @ step.components_
        return pulled
    spread: np.ndarray = step.inverse_transform(gradient)  # a feature that was dropped has no influence
    return spread
