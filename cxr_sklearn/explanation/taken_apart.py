"""A fitted pipeline as one flat row of steps, so that images can be sent through all of it or through a part."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from ..exceptions import InputError
from ..images import ImageBatch, as_batch
from ..loader import ImageLoader
from ..parts import parts_of, set_everywhere
from ..resampling import ResamplingClassifier
from ..scores import PredictedScores


def fitted_steps(pipeline: Any) -> list[Any]:
    """Return the fitted steps in the order in which images meet them, those inside wrappers too; the last classifies.

    A calibrated pipeline gives the steps of the pipeline that was calibrated: calibration leaves the order of scores as
    it is. Test-time augmentation is left out, for a map is of one image.

    Raises
    ------
    ValueError
        If `pipeline` is no Pipeline, is not fitted, or does not tell pneumonia, 1, from normal, 0.
    """
    if not isinstance(pipeline, Pipeline):
        raise InputError(
            f"expected a fitted scikit-learn Pipeline, but got {type(pipeline).__name__}; of a search, pass its "
            "best_estimator_"
        )
    check_is_fitted(pipeline)
    classes = np.asarray(getattr(pipeline, "classes_", ())).tolist()
    if classes != [0, 1]:
        raise InputError(
            f"expected a pipeline fitted on 0 (normal) and 1 (pneumonia), but the classes of its last step are "
            f"{classes}"
        )
    return list(_flat(pipeline))


def _flat(estimator: Any) -> Iterator[Any]:
    if isinstance(estimator, Pipeline):
        *before, last = (step for _, step in estimator.steps if step != "passthrough")
        if any(isinstance(step, PredictedScores) for step in before):
            last = next(step.estimator for step in before if isinstance(step, PredictedScores))
            before = []
        for step in before:
            yield from _flat(step)
        yield from _flat(last)
    elif isinstance(estimator, ResamplingClassifier):
        yield from _flat(estimator.estimator_)
    elif isinstance(estimator, FrozenEstimator):
        yield from _flat(estimator.estimator)
    else:
        yield estimator


def loaded(steps: list[Any], X: Any) -> tuple[ImageBatch, list[Any]]:
    """Return the images that the pipeline loads, not decoded yet, and the steps that are left for them.

    Raises
    ------
    ValueError
        If no step is an ImageLoader, or it cannot load `X`.
    """
    places = [i for i, step in enumerate(steps) if isinstance(step, ImageLoader)]
    if not places:
        raise InputError("the pipeline has no ImageLoader, so there are no images of one size to draw maps of")
    for step in steps[: places[0] + 1]:
        X = step.transform(X)
    return as_batch(X), steps[places[0] + 1 :]


def images_after(steps: list[Any], images: ImageBatch) -> ImageBatch:
    """Send images through steps that give images again."""
    for step in steps:
        images = as_batch(step.transform(images))
    return images


def without_stores(step: Any) -> Any:
    """Return a fitted step that keeps no features: the step itself where it has no store, else a copy."""
    if all(getattr(part, "store", None) is None for part in parts_of(step)):
        return step
    copied = copy.deepcopy(step)
    set_everywhere(copied, "store", None)
    return copied
