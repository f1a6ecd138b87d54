"""Grad-CAM and CAM: where the last feature maps of a network raise the score."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.feature_selection import SelectorMixin
from sklearn.neural_network import MLPClassifier
from sklearn.neural_network._base import DERIVATIVES
from sklearn.preprocessing import StandardScaler

from .._keras import import_keras
from ..classifiers._training import predict_all_outputs, predict_outputs
from ..classifiers.base import KerasImageClassifier
from ..exceptions import InputError
from ..features._backbones import pooled
from ..features.embedder import FrozenEmbedder
from ..images.batch import ImageBatch
from ._steps import images_after


def map_gradient(network: Any, maps: np.ndarray) -> np.ndarray:
    """Return the gradient of the log-odds of class 1 with respect to maps, from which a network computes two logits."""
    keras = import_keras()

    def log_odds(inputs: Any) -> Any:
        logits = network(inputs, training=False)
        # Images do not influence each other, so the gradient of the sum holds that of each.
        return keras.ops.sum(logits[:, 1] - logits[:, 0])

    backend = keras.config.backend()
    inputs = keras.ops.convert_to_tensor(maps)
    if backend == "tensorflow":
        with importlib.import_module("tensorflow").GradientTape() as tape:
            tape.watch(inputs)
            score = log_odds(inputs)
        gradient = tape.gradient(score, inputs)
    elif backend == "jax":
        gradient = importlib.import_module("jax").grad(log_odds)(inputs)
    elif backend == "torch":
        inputs = inputs.detach().requires_grad_()
        (gradient,) = importlib.import_module("torch").autograd.grad(log_odds(inputs), inputs)
    else:
        raise InputError(f"there are no gradients on Keras' backend {backend!r}; use method='occlusion'")
    return np.asarray(keras.ops.convert_to_numpy(gradient), dtype=np.float32)


def head_obstacle(between: list[Any], head: Any) -> str | None:
    """Say which step, behind the features, has no gradient here; None where all have one."""
    for step in between:
        if not isinstance(step, StandardScaler | PCA | SelectorMixin):
            return f"{type(step).__name__} is not a StandardScaler, a PCA or a feature selection"
    if not (isinstance(head, MLPClassifier) or hasattr(head, "coef_")):
        return f"{type(head).__name__} is neither a linear classifier (with coef_) nor an MLPClassifier"
    return None


def feature_gradient(between: list[Any], head: Any, features: np.ndarray) -> np.ndarray:
    """Return the gradient, float64 (n, d), of the score of class 1 before it becomes a probability.

    Exact: the coefficients of a linear classifier, the chain rule through a perceptron. The steps must have no
    :func:`head_obstacle`.
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
    outputs = head._forward_pass([inputs, *[None] * len(head.coefs_)])
    gradient = np.repeat(head.coefs_[-1].T.astype(np.float64), len(inputs), axis=0)
    for weights, hidden in zip(reversed(head.coefs_[:-1]), reversed(outputs[1:-1]), strict=True):
        DERIVATIVES[head.activation](hidden, gradient)  # changes the gradient in place
        gradient = gradient @ weights.T
    return gradient


def _pulled_back(step: Any, gradient: np.ndarray) -> np.ndarray:
    """Multiply with the transposed matrix of a step that is linear but for an offset."""
    if isinstance(step, StandardScaler):
        return gradient if step.scale_ is None else gradient / step.scale_
    if isinstance(step, PCA):
        scale = np.sqrt(step.explained_variance_) if step.whiten else 1.0
        return (gradient / scale) @ step.components_
    return step.inverse_transform(gradient)  # a feature that was dropped has no influence


#: From k images to their maps, float (k, h, w), signed.
Explainer = Callable[[ImageBatch], np.ndarray]


def gradcam_obstacle(steps: list[Any]) -> str | None:
    """Return why Grad-CAM cannot explain these fitted steps, from loaded images on; None where it can."""
    if isinstance(steps[-1], KerasImageClassifier):
        return None
    places = _places(steps)
    if not places:
        return "there is neither a FrozenEmbedder nor a classifier that is a network"
    embedder = steps[places[0]]
    if any(len(maps.shape) != 4 for maps in embedder.maps_network().outputs):
        return f"layer={embedder.layer!r} of {embedder.backbone} gives no map"
    return head_obstacle(steps[places[0] + 1 : -1], steps[-1])


def gradcam_maps(steps: list[Any]) -> Explainer:
    """Return the function that makes maps of images, for steps that have no :func:`gradcam_obstacle`."""
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
        gradient = feature_gradient(between, head, np.concatenate(vectors, axis=1))
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
    return (maps * gradient).sum(axis=3)
