"""Gradients of networks: what the `keras` API lacks, so the one place that names backends."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from ..exceptions import InputError
from ..keras_runtime import import_keras


def map_gradient(network: Any, maps: np.ndarray) -> np.ndarray:
    """Return the gradient of the log-odds of the second of two classes with respect to the network's input.

    Parameters
    ----------
    network : keras.Model
        From maps to two logits.
    maps : ndarray of shape (n, h, w, c) and dtype float32

    Returns
    -------
    ndarray of shape (n, h, w, c) and dtype float32

    Raises
    ------
    ValueError
        If Keras runs on a backend without gradients.
    """
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
