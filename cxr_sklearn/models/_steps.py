"""The steps of a pipeline, whatever wraps them, in the order in which images meet them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.calibration import _CalibratedClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from .._keras import resolve_precision
from ..classifiers.finetuned import FineTunedClassifier
from ..classifiers.resampling import ResamplingClassifier
from ..exceptions import InputError
from ..features._backbones import weights_identity
from ..features.embedder import FrozenEmbedder
from ..images.batch import ImageBatch, as_batch
from ..images.loader import ImageLoader
from .calibration import PredictedScores


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


def _steps(estimator: Any) -> list[Any]:
    """Return the steps in the order in which images meet them, those inside the last one too."""
    if isinstance(estimator, Pipeline):
        *before, last = (step for _, step in estimator.steps if step not in (None, "passthrough"))
        return [*before, *_steps(last)]
    return _steps(estimator.estimator) if isinstance(estimator, ResamplingClassifier) else [estimator]


def _stores(step: Any) -> bool:
    return hasattr(step, "get_params") and any(
        name.split("__")[-1] == "store" and value is not None for name, value in step.get_params().items()
    )


def backbones_of(pipeline: Pipeline) -> list[dict[str, Any]]:
    """Describe every pretrained network in a pipeline."""
    return [
        _describe_backbone(step)
        for step in pipeline.get_params().values()
        if isinstance(step, FrozenEmbedder | FineTunedClassifier)
    ]


def _describe_backbone(network: FrozenEmbedder | FineTunedClassifier) -> dict[str, Any]:
    named = network.weights in ("imagenet", "random")
    return {
        "backbone": network.backbone,
        "layer": ", ".join(network.layer) if isinstance(network.layer, list | tuple) else network.layer,
        "pooling": network.pooling,
        "trainable_from": getattr(network, "trainable_from", None),
        "weights": network.weights if named else Path(network.weights).name,
        "weights_id": weights_identity(network.backbone, network.weights),
        "precision": resolve_precision(network.precision),
    }


def crop_of(pipeline: Any) -> float:
    """Return the central part of each side that a pipeline looks at; all of it where it has no ImageLoader.

    With several loaders, templates of a search among them, it is the largest part.
    """
    return max((float(part.crop) for part in parts_of(pipeline) if isinstance(part, ImageLoader)), default=1.0)


def last_classifier(model: Any) -> Any:
    """Return the classifier at the end of a fitted pipeline, whatever wraps it."""
    while isinstance(model, Pipeline | ResamplingClassifier):
        model = model[-1] if isinstance(model, Pipeline) else model.estimator_
    return model


#: Where a wrapper keeps the fitted estimator that its images go to.
_INNER = {ResamplingClassifier: "estimator_", PredictedScores: "estimator", FrozenEstimator: "estimator"}


def with_step_after_loader(model: Any, name: str, step: BaseEstimator) -> Any | None:
    """Return a fitted pipeline with one more step, right after its ImageLoader; the pipeline itself stays as it is.

    Parameters
    ----------
    model : Pipeline
        Fitted. The loader may be in a pipeline inside it, in a classifier that resamples or in a calibrated pipeline.
    name : str
    step : transformer of images
        Needs no fitting.

    Returns
    -------
    Pipeline or None
        It shares the fitted parts; None where no ImageLoader is found.
    """
    if isinstance(model, Pipeline):
        return _in_pipeline(model, name, step)
    attribute = next((attribute for kind, attribute in _INNER.items() if isinstance(model, kind)), None)
    inner = attribute and with_step_after_loader(getattr(model, attribute, None), name, step)
    if inner is None:
        return None
    changed = copy.copy(model)
    setattr(changed, str(attribute), inner)
    return changed


def _in_pipeline(model: Pipeline, name: str, step: BaseEstimator) -> Pipeline | None:
    for i, (own_name, own_step) in enumerate(model.steps):
        if isinstance(own_step, ImageLoader):
            return Pipeline([*model.steps[: i + 1], (name, step), *model.steps[i + 1 :]])
        inner = with_step_after_loader(own_step, name, step)
        if inner is not None:
            return Pipeline([*model.steps[:i], (own_name, inner), *model.steps[i + 1 :]])
    return None
