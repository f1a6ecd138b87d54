"""Grad-CAM and CAM: where the last feature maps of a network raise the score."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from ..backbones import pooled
from ..classifiers.base import KerasImageClassifier
from ..classifiers.training import predict_all_outputs, predict_outputs
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
    if any(len(maps.shape) != 4 for maps in embedder.maps_network().outputs):
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
        found = predict_all_outputs(network, images_after(before, images), embedder.batch_size_)
        vectors = [import_keras().ops.convert_to_numpy(pooled(maps, embedder.pooling)) for maps in found]
        gradient = heads.feature_gradient(between, head, np.concatenate(vectors, axis=1))
        ends = np.cumsum([vector.shape[1] for vector in vectors])[:-1]
        return _summed(
            [_weighted(maps, _unpooled(of_layer, maps, embedder.pooling))
             for maps, of_layer in zip(found, np.split(gradient, ends, axis=1), strict=True)]
        )  # fmt: skip

    return explain


def _summed(heat: list[np.ndarray]) -> np.ndarray:
    """Add maps of several layers up, float (k, h, w) each: what a place adds to the score is spread over its area."""
    height, width = (max(sides) for sides in zip(*(maps.shape[1:] for maps in heat), strict=True))

    def enlarged(one: np.ndarray) -> np.ndarray:
        area = height * width / one.size
        image = Image.fromarray(one.astype(np.float32))
        return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR)) / area

    return heat[0] if len(heat) == 1 else np.sum([[enlarged(one) for one in maps] for maps in heat], axis=0)


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
