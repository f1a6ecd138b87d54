"""Grad-CAM and CAM: where the last feature maps of a network raise the score."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..backbones import pooled
from ..classifiers.base import KerasImageClassifier
from ..classifiers.training import predict_outputs
from ..embedder import FrozenEmbedder
from ..images import ImageBatch
from ..keras_runtime import import_keras
from . import heads
from .gradients import map_gradient
from .taken_apart import images_after

#: From k images to their maps, float (k, h, w), signed.
Explainer = Callable[[ImageBatch], np.ndarray]


def obstacle(steps: list[Any]) -> str | None:
    """Say what stands in the way of Grad-CAM; None where nothing does.

    Parameters
    ----------
    steps : list of fitted steps
        From loaded images on.
    """
    if isinstance(steps[-1], KerasImageClassifier):
        return None
    places = _places(steps)
    if not places:
        return "there is neither a FrozenEmbedder nor a classifier that is a network"
    embedder = steps[places[0]]
    if len(embedder.maps_network().output_shape) != 4:
        return f"layer={embedder.layer!r} of {embedder.backbone} gives no map"
    return heads.obstacle(steps[places[0] + 1 : -1], steps[-1])


def explainer(steps: list[Any]) -> Explainer:
    """Return the function that makes maps of images, for steps that have no :func:`obstacle`."""
    if isinstance(steps[-1], KerasImageClassifier):
        return _of_network(steps[:-1], steps[-1])
    i = _places(steps)[0]
    return _of_frozen(steps[:i], steps[i], steps[i + 1 : -1], steps[-1])


def _places(steps: list[Any]) -> list[int]:
    return [i for i, step in enumerate(steps) if isinstance(step, FrozenEmbedder)]


def _of_network(before: list[Any], classifier: KerasImageClassifier) -> Explainer:
    to_maps, to_logits = classifier.cut_at_last_maps()

    def explain(images: ImageBatch) -> np.ndarray:
        inputs = classifier.network_inputs(images_after(before, images))
        maps = predict_outputs(to_maps, inputs, classifier.batch_size)
        return _weighted(maps, map_gradient(to_logits, maps))

    return explain


def _of_frozen(before: list[Any], embedder: FrozenEmbedder, between: list[Any], head: Any) -> Explainer:
    network = embedder.maps_network()

    def explain(images: ImageBatch) -> np.ndarray:
        maps = predict_outputs(network, images_after(before, images), embedder.batch_size_)
        features = import_keras().ops.convert_to_numpy(pooled(maps, embedder.pooling))
        return _weighted(maps, _unpooled(heads.feature_gradient(between, head, features), maps, embedder.pooling))

    return explain


def _unpooled(gradient: np.ndarray, maps: np.ndarray, pooling: str) -> np.ndarray:
    """Return the gradient with respect to maps from that with respect to what was pooled of them."""
    n, height, width, channels = maps.shape
    if pooling == "flatten":
        return gradient.reshape(maps.shape)
    if pooling == "avg":
        return np.broadcast_to(gradient[:, None, None, :] / (height * width), maps.shape)
    flat = maps.reshape(n, height * width, channels)
    at_maximum = np.arange(height * width)[None, :, None] == flat.argmax(axis=1)[:, None, :]
    return (at_maximum * gradient[:, None, :]).reshape(maps.shape)


def _weighted(maps: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    # Place by place, not by the gradient's mean over the places: that would show places a flattened map ignores.
    summed: np.ndarray = (maps * gradient).sum(axis=3)
    return summed
