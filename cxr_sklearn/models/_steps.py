"""The steps of a pipeline, through all wrappers, in the order in which images meet them.

scikit-learn composes estimators in many ways: pipelines inside pipelines, steps that are None or "passthrough",
searches, calibration, thresholds, stacks, and the package's own wrappers. Every question about the composition of a
model (its loader, its networks, its final classifier) is answered here, and no other module takes a pipeline apart.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.calibration import CalibratedClassifierCV, _CalibratedClassifier
from sklearn.compose import ColumnTransformer
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import FixedThresholdClassifier, TunedThresholdClassifierCV
from sklearn.model_selection._search import BaseSearchCV
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from ..classifiers.finetuned import FineTunedClassifier
from ..classifiers.resampling import ResamplingClassifier
from ..exceptions import InputError
from ..features._backbones import weights_identity
from ..features._onnx import resolve_engine
from ..features.domain import DomainDetector
from ..features.embedder import FrozenEmbedder
from ..features.shortcuts import ShortcutFeatures
from ..images.batch import ImageBatch, PassesImages, as_batch
from ..images.loader import ImageLoader
from .model import CXRModel

#: Wrappers that pass their input on to one estimator, and the attribute that holds it once they are fitted.
_WRAPPERS: tuple[tuple[Any, str], ...] = (
    (ResamplingClassifier, "estimator_"),
    (BaseSearchCV, "best_estimator_"),
    (FixedThresholdClassifier, "estimator_"),
    (TunedThresholdClassifierCV, "estimator_"),
    (FrozenEstimator, "estimator"),
)
_NO_STEP = (None, "passthrough")
#: What keeps rows of images in a feature store.
_KEEPS_ROWS = (FrozenEmbedder, ShortcutFeatures, DomainDetector)


def parts_of(thing: Any) -> Iterator[BaseEstimator]:
    """Yield every estimator in a model, fitted or not, at any depth; the templates that clones are made of, too."""
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


def networks_of(model: Any) -> list[FrozenEmbedder | FineTunedClassifier]:
    """Return the parts with a pretrained network, fitted or not."""
    return [part for part in parts_of(model) if isinstance(part, FrozenEmbedder | FineTunedClassifier)]


def set_store(model: Any, store: Any) -> None:
    """Tell every part of a model that keeps rows of images where to keep them; "auto" leaves off what is off."""
    for part in parts_of(model):
        if isinstance(part, _KEEPS_ROWS) and not (part.store is None and store == "auto"):
            part.store = store


def keeps_nothing(model: Any) -> bool:
    """Whether a model could keep rows of images, and every part of it has its store turned off."""
    stores = [part.store for part in parts_of(model) if isinstance(part, _KEEPS_ROWS)]
    return bool(stores) and all(store is None for store in stores)


def without_stores(step: Any) -> Any:
    """Return a fitted step that keeps no rows: the step itself where it keeps none anyway, else a copy."""
    if all(part.store is None for part in parts_of(step) if isinstance(part, _KEEPS_ROWS)):
        return step
    copied = copy.deepcopy(step)
    set_store(copied, None)
    return copied


def steps_of(model: Any) -> list[Any]:
    """Return the steps in the order in which images meet them; the last one classifies, if any does.

    A wrapper around a single estimator is left out, and that estimator takes its place: the fitted one if there is
    one. A calibrator does not count: it leaves the order of scores as it is. What combines several
    estimators, a stack for example, is one step.
    """
    if isinstance(model, Pipeline):
        steps: list[Any] = []
        for _, step in model.steps:
            if step not in _NO_STEP:
                steps += steps_of(step)
        return steps
    inner = model.pipeline if isinstance(model, CXRModel) else _wrapped(model)
    return [model] if inner is None else steps_of(inner)


def _wrapped(model: Any) -> Any:
    """Return the estimator inside a wrapper; None if `model` is not a wrapper, or holds several estimators."""
    for kind, fitted in _WRAPPERS:
        if isinstance(model, kind):
            return getattr(model, fitted, model.estimator)
    if isinstance(model, CalibratedClassifierCV):
        calibrated = getattr(model, "calibrated_classifiers_", None)
        if calibrated is None:
            return model.estimator
        # What is calibrated need not give probabilities itself, and is not taken for the classifier then.
        inner = calibrated[0].estimator
        return inner if len(calibrated) == 1 and hasattr(inner, "predict_proba") else None
    return None


def fitted_steps(pipeline: Any) -> list[Any]:
    """Return the steps of a Pipeline or CXRModel fitted on 0 and 1, as :func:`steps_of` does; refuse anything else."""
    if not isinstance(pipeline, Pipeline | CXRModel):
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
    return steps_of(pipeline)


def loaded(steps: list[Any], X: Any) -> tuple[ImageBatch, list[Any]]:
    """Return the images that the pipeline loads, not decoded yet, and the steps that are left for them."""
    places = [i for i, step in enumerate(steps) if isinstance(step, ImageLoader)]
    if not places:
        raise InputError(
            "the pipeline has no ImageLoader as a step of its own, so there are no images of one size to draw maps of"
        )
    for step in steps[: places[0] + 1]:
        X = step.transform(X)
    return as_batch(X), steps[places[0] + 1 :]


def loader_of(model: Any) -> ImageLoader | None:
    """Return the loader that images meet first; None where a model has no ImageLoader that sees them all."""
    return next((step for step in steps_of(model) if isinstance(step, ImageLoader)), None)


def images_after(steps: list[Any], images: ImageBatch) -> ImageBatch:
    """Send images through steps that give images again."""
    for step in steps:
        images = as_batch(step.transform(images))
    return images


def after_loader(model: Any, name: str, step: BaseEstimator) -> Any | None:
    """Return a fitted model with one more step, which needs no fitting, right after each ImageLoader.

    The loaders may be in pipelines inside the model, at any depth. The model itself stays as it is, and shares its
    fitted parts with the result, which is None where no pipeline has an ImageLoader.
    """
    if isinstance(model, Pipeline):
        steps, is_changed = [], False
        for own_name, own_step in model.steps:
            inner = after_loader(own_step, name, step)
            steps.append((own_name, own_step if inner is None else inner))
            is_changed |= inner is not None
            if isinstance(own_step, ImageLoader):
                steps.append((name, step))
                is_changed = True
        return _with(model, {"steps": steps}) if is_changed else None
    if isinstance(model, BaseEstimator | _CalibratedClassifier):
        changed = after_loader(vars(model), name, step)
        return None if changed is None else _with(model, changed)
    if isinstance(model, dict):
        changed = {key: inner for key, value in model.items() if (inner := after_loader(value, name, step)) is not None}
        return copy.copy(model) | changed if changed else None
    if isinstance(model, list | tuple) and not hasattr(model, "_fields"):
        inside = [after_loader(value, name, step) for value in model]
        if all(inner is None for inner in inside):
            return None
        return type(model)(old if new is None else new for old, new in zip(model, inside, strict=True))
    return None


def _with(model: Any, attributes: dict[str, Any]) -> Any:
    changed = copy.copy(model)
    vars(changed).update(attributes)
    return changed


def fill_stores(model: Any, X: Any, verbose: int) -> list[Any]:
    """Compute the rows of paths that the parts of an unfitted model keep in a store, each once and without labels.

    The model stays as it is. What comes after a step whose output depends on what it was fitted on is left out.
    Returned is a fitted copy of each part, with ``n_embedded_`` and ``n_cached_`` where it counts.
    """
    filled: list[Any] = []
    _fill(model, X, verbose, filled)
    return filled


def _fill(model: Any, X: Any, verbose: int, filled: list[Any]) -> Any:
    """Return what `model` makes of `X`, None where that cannot be known before a fit."""
    if X is None:
        return None
    if isinstance(model, Pipeline):
        for _, step in model.steps:
            X = X if step in _NO_STEP else _fill(step, X, verbose, filled)
        return X
    if isinstance(model, FrozenEmbedder | ShortcutFeatures):
        if model.store is not None:
            filled.append(clone(model).set_params(verbose=verbose))
            filled[-1].fit(X).transform(X)
        return None
    if isinstance(model, ImageLoader | PassesImages):
        return clone(model).fit(X).transform(X)
    if isinstance(model, BaseEstimator) and not isinstance(model, ColumnTransformer):
        for part in _inside(model):
            if not isinstance(part, PassesImages):
                _fill(part, X, verbose, filled)
    return None


def kept_features(model: Any, X: Any) -> np.ndarray | None:
    """Return the features of the images that an unfitted model begins with; None unless they come from a store.

    They are known before a fit where nothing but steps that pass images on comes before a FrozenEmbedder.
    """
    for step in steps_of(model):
        if isinstance(step, ImageLoader | PassesImages):
            X = clone(step).fit(X).transform(X)
        elif isinstance(step, FrozenEmbedder) and step.store is not None:
            return np.asarray(clone(step).set_params(verbose=0).fit(X).transform(X))
        else:
            return None
    return None


def _inside(model: BaseEstimator) -> Iterator[BaseEstimator]:
    """Yield the estimators that an unfitted one was given."""
    for value in model.get_params(deep=False).values():
        # Stacks and unions have lists of estimators by name.
        named = isinstance(value, list) and all(isinstance(item, tuple) and len(item) == 2 for item in value)
        for part in (part for _, part in value) if named else (value,):
            if isinstance(part, BaseEstimator):
                yield part


def heads_of(model: Any) -> Iterator[tuple[int | None, Pipeline]]:
    """Yield what follows in an unfitted model when images have become numbers, as pipelines to try by themselves.

    They are the last steps of each pipeline in it, as far back as these are scikit-learn's own. Before each comes the
    number of columns that reach it, if that is known.
    """
    steps = [] if model is None else _flat(model)
    n_own = len(steps)
    while n_own and all(type(part).__module__.startswith("sklearn.") for part in parts_of(steps[n_own - 1])):
        n_own -= 1
    if steps[n_own:]:
        before = steps[n_own - 1] if n_own else None
        n_columns = len(before.get_feature_names_out()) if isinstance(before, ShortcutFeatures) else None
        yield n_columns, Pipeline([(str(i), clone(step)) for i, step in enumerate(steps[n_own:])])
    for step in steps[:n_own]:
        for part in _inside(step):
            yield from heads_of(part)


def _flat(model: Any) -> list[Any]:
    if not isinstance(model, Pipeline):
        return [model]
    return [inner for _, step in model.steps if step not in _NO_STEP for inner in _flat(step)]


def describe_networks(pipeline: Any) -> list[dict[str, Any]]:
    """Say which pretrained networks a pipeline has, fitted or not: of which layers, and with which weights."""
    return [
        {
            "backbone": network.backbone,
            "layer": ", ".join(network.layer) if isinstance(network.layer, list | tuple) else network.layer,
            "pooling": network.pooling,
            "trainable_from": getattr(network, "trainable_from", None),
            "weights": Path(network.weights).name,  # which leaves "imagenet" and "random" as they are
            "weights_id": weights_identity(network.backbone, network.weights),
            "precision": resolve_engine(getattr(network, "engine", "keras"), network.precision)[1],
        }
        for network in networks_of(clone(pipeline))
    ]


def crop_of(pipeline: Any) -> float:
    """Return the central part of each side that a pipeline looks at; all of it where it has no ImageLoader.

    With several loaders, templates of a search among them, it is the largest part.
    """
    return max((float(part.crop) for part in parts_of(pipeline) if isinstance(part, ImageLoader)), default=1.0)
