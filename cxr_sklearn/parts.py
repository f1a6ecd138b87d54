"""The estimators that a pipeline is made of, whatever wraps them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.calibration import _CalibratedClassifier


def parts_of(thing: Any) -> Iterator[BaseEstimator]:
    """Yield every estimator in a model, fitted or not, whatever wraps it."""
    if isinstance(thing, BaseEstimator):
        yield thing
    if isinstance(thing, BaseEstimator | _CalibratedClassifier):
        thing = vars(thing)
    if isinstance(thing, dict):
        thing = list(thing.values())
    if isinstance(thing, np.ndarray) and thing.dtype == object:
        thing = thing.tolist()
    if isinstance(thing, list | tuple):
        for inner in thing:
            yield from parts_of(inner)


def set_everywhere(model: Any, name: str, value: Any) -> None:
    """Set a parameter of every estimator that has it."""
    for part in parts_of(model):
        if name in vars(part):
            setattr(part, name, value)
