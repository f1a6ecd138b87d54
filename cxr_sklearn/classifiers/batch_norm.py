"""Batch normalisation whose statistics are those of the weights it ends with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..keras_runtime import import_keras
from .training import Indexable


def learning_normalisations(network: Any) -> list[Any]:
    """Return the batch normalisations of a network, nested networks included, that normalise by the batch."""
    keras = import_keras()

    def layers_of(model: Any) -> Iterator[Any]:
        for layer in model.layers:
            if isinstance(layer, keras.Model):
                yield from layers_of(layer)
            elif isinstance(layer, keras.layers.BatchNormalization) and layer.trainable:
                yield layer

    return list(layers_of(network))


def estimate_statistics(network: Any, images: Indexable, batch_size: int) -> None:
    """Set mean and variance of each batch normalisation to those over `images`, batch by batch (Wu & Johnson, 2021).

    Keras predicts with moving averages that trail the weights by hundreds of steps. Here the network sees the images
    once more as in training, each layer normalising by the batch, and no weight moves. With a momentum of 0 the "moving
    average" is the last batch's own mean and variance; of these the mean and the mean square add up over batches.

    Parameters
    ----------
    network : keras.Model
    images : sequence of n rows
        What the network takes, in mixed order: a batch of one class is none like those of the training.
    batch_size : int
    """
    layers = learning_normalisations(network)
    if not layers:
        return
    momenta = [layer.momentum for layer in layers]
    weights = {id(weight) for weight in network.weights}
    # Dropout draws as the network looks at the images; the training is to go on as if nobody had looked.
    seeds = [(state, _as_array(state)) for state in network.variables if id(state) not in weights]
    means, squares = ([np.zeros(())] * len(layers) for _ in range(2))
    n = len(images)
    try:
        for layer in layers:
            layer.momentum = 0.0
        for start in range(0, n, batch_size):
            rows = np.arange(start, min(start + batch_size, n))
            network(np.asarray(images[rows]), training=True)
            for i, layer in enumerate(layers):
                mean, variance = (_as_array(v).astype(float) for v in (layer.moving_mean, layer.moving_variance))
                means[i] = means[i] + mean * len(rows) / n
                squares[i] = squares[i] + (variance + mean**2) * len(rows) / n
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        for state, value in seeds:
            state.assign(value)
    for layer, mean, square in zip(layers, means, squares, strict=True):
        layer.moving_mean.assign(mean)
        layer.moving_variance.assign(np.maximum(square - mean**2, 0))


def _as_array(variable: Any) -> np.ndarray:
    return np.array(import_keras().ops.convert_to_numpy(variable))
