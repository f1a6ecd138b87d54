"""What a pipeline is made of: the features it can have in advance, its networks, and the classifier at its end."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from sklearn.base import clone
from sklearn.pipeline import Pipeline

from ..backbones import weights_identity
from ..classifiers.base import KerasImageClassifier
from ..classifiers.finetuned import FineTunedClassifier
from ..embedder import FrozenEmbedder
from ..keras_runtime import resolve_precision
from ..loader import ImageLoader
from ..parts import parts_of
from ..resampling import ResamplingClassifier


def embed_all(pipeline: Pipeline, frame: pd.DataFrame, verbose: int) -> dict[str, Any]:
    """Fill the store with the features of every image, and say with what and in how many seconds."""
    facts: dict[str, Any] = {
        "backbones": backbones_of(pipeline),
        "n_embedded": None,
        "n_cached": None,
        "seconds": {"embedding": 0.0},
    }
    steps = _steps(pipeline)
    stored = [i for i, step in enumerate(steps) if hasattr(step, "transform") and _stores(step)]
    if not stored:
        return facts
    prefix = Pipeline([(str(i), clone(step)) for i, step in enumerate(steps[: stored[-1] + 1])])
    names = prefix.get_params()
    prefix.set_params(
        **{name: verbose for name in names if name.endswith("__verbose") and f"{name[:-7]}store" in names}
    )
    start = time.perf_counter()
    prefix.fit(frame["path"].iloc[:1]).transform(frame["path"])
    facts["seconds"]["embedding"] = time.perf_counter() - start
    if isinstance(prefix[-1], FrozenEmbedder):
        facts |= {"n_embedded": prefix[-1].n_embedded_, "n_cached": prefix[-1].n_cached_}
    return facts


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


def training_of(name: str, model: Pipeline) -> list[pd.DataFrame]:
    """Return the table of the epochs of a fitted pipeline, nothing where it trained no network."""
    classifier = last_classifier(model)
    if not isinstance(classifier, KerasImageClassifier):
        return []
    return [training_table(name, {"head": getattr(classifier, "head_history_", {}), "all": classifier.history_})]


def training_table(name: str, histories: Mapping[str, Mapping[str, list[float]]]) -> pd.DataFrame:
    """Return one row per epoch.

    Parameters
    ----------
    name : str
        Of the pipeline.
    histories : mapping of str to mapping of str to list of float
        ``history_`` by phase, in the order in which they were trained.
    """
    parts = [
        pd.DataFrame({"pipeline": name, "phase": phase, "epoch": range(1, 1 + len(history["loss"])), **history})
        for phase, history in histories.items()
        if history
    ]
    return pd.concat(parts)
