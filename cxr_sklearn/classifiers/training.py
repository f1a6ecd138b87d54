"""The training loop that the Keras classifiers share: epochs, validation, early stopping, all in memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from scipy.special import log_softmax
from sklearn.metrics import accuracy_score, roc_auc_score

from ..backbones import import_keras
from ..exceptions import TrainingError
from ..progress import progress_bar


class Indexable(Protocol):
    """Images, or what a frozen network made of them: rows by index array."""

    def __len__(self) -> int: ...
    def __getitem__(self, rows: np.ndarray) -> Any: ...


def batches(inputs: Indexable, target: np.ndarray, weight: np.ndarray, batch_size: int, order: np.ndarray) -> Any:
    """Return a ``keras.utils.PyDataset`` over the rows in `order`, read ahead in threads.

    Parameters
    ----------
    inputs : sequence of n rows
        Indexed with an integer array per batch and turned into an array: images are decoded only then.
    target, weight : ndarray of shape (n,)
    batch_size : int
    order : ndarray of int
    """
    keras = import_keras()

    class Batches(keras.utils.PyDataset):  # type: ignore[name-defined]
        failure: Exception | None = None

        def __len__(self) -> int:
            return math.ceil(len(order) / batch_size)

        def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            rows = order[i * batch_size : (i + 1) * batch_size]
            try:
                return np.asarray(inputs[rows]), target[rows], weight[rows]
            except Exception as error:
                self.failure = error  # the backend would turn it into an error of its own
                raise

    # One worker, for Keras reads ahead in a thread then; with more it also sleeps a tenth of a second in every epoch.
    return Batches(workers=1)


def compile_for_training(network: Any, learning_rate: float) -> None:
    """Compile `network` with Adam on the cross-entropy of its logits."""
    keras = import_keras()
    network.compile(
        optimizer=keras.optimizers.Adam(learning_rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
        jit_compile=keras.backend.backend() == "jax",
    )


def predict_outputs(network: Any, inputs: Indexable, batch_size: int) -> np.ndarray:
    """Return the network's output for all rows, in order, float32."""
    n = len(inputs)
    parts = []
    for start in range(0, n, batch_size):
        rows = np.arange(start, min(start + batch_size, n))
        # Every batch has the same shape, the last is filled up: a new shape would be traced anew.
        filled = np.resize(rows, min(batch_size, 1 << max(n - 1, 0).bit_length()))
        parts.append(np.asarray(network.predict_on_batch(np.asarray(inputs[filled])))[: len(rows)])
    return np.concatenate(parts).astype(np.float32)


def scores_of(logits: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """Loss, accuracy and, where there are two classes, ROC AUC of `logits`."""
    if not np.isfinite(logits).all():
        return {"loss": math.nan}
    log_probability = log_softmax(logits.astype(np.float64), axis=1)
    scores = {
        "loss": float(-log_probability[np.arange(len(target)), target].mean()),
        "accuracy": float(accuracy_score(target, logits.argmax(axis=1))),
    }
    if logits.shape[1] == 2 and len(np.unique(target)) == 2:
        scores["auc"] = float(roc_auc_score(target, log_probability[:, 1] - log_probability[:, 0]))
    return scores


class EarlyStopping:
    """Keep the weights of the best epoch in memory, and say when to stop.

    Parameters
    ----------
    patience : int or None
        Epochs without a lower validation loss after which to stop; None never stops and keeps the last weights.
    """

    def __init__(self, patience: int | None) -> None:
        self._patience = patience
        self._best_loss = math.inf
        self._since = 0
        self.weights: list[np.ndarray] | None = None

    def stop(self, loss: float, network: Any) -> bool:
        """Note the loss of an epoch; return whether it was the last."""
        if self._patience is None:
            return False
        self._since += 1
        if loss < self._best_loss:
            self._best_loss, self._since, self.weights = loss, 0, network.get_weights()
        return self._since >= self._patience


def train(
    network: Any,
    *,
    epochs: int,
    dataset_of: Callable[[int], Any],
    evaluate: Callable[[], dict[str, float]],
    patience: int | None,
    label: str,
    verbose: int,
) -> dict[str, list[float]]:
    """Train a compiled network and leave it with the weights of its best epoch.

    Parameters
    ----------
    network : keras.Model
    epochs : int
    dataset_of : callable
        From the epoch's number to its batches.
    evaluate : callable
        Called after each epoch; its scores go into the history, and "val_loss" among them decides when to stop.
    patience : int or None
    label : str
        What to call the progress bar.
    verbose : int

    Returns
    -------
    dict of str to list of float
        One number per epoch.

    Raises
    ------
    TrainingError
        If the loss stops being a number.
    """
    history: dict[str, list[float]] = {}
    stopping = EarlyStopping(patience)
    with progress_bar(label, epochs, show=verbose > 0) as advance:
        for epoch in range(epochs):
            scores = {**_one_epoch(network, dataset_of(epoch)), **evaluate()}
            if not all(np.isfinite(value) for value in scores.values()):
                raise TrainingError(f"the loss of epoch {epoch + 1} is not a number; try a lower learning rate")
            for name, value in scores.items():
                history.setdefault(name, []).append(value)
            advance(1)
            if stopping.stop(scores.get("val_loss", math.inf), network):
                break
    if stopping.weights is not None:
        network.set_weights(stopping.weights)
    return history


def _one_epoch(network: Any, dataset: Any) -> dict[str, float]:
    try:
        logs = network.fit(dataset, epochs=1, shuffle=False, verbose=0).history
    except Exception:
        if dataset.failure is not None:
            raise dataset.failure from None
        raise
    return {"batch_loss": float(logs["loss"][0]), "batch_accuracy": float(logs["accuracy"][0])}


def monitored_scores(
    network: Any, parts: Mapping[str, tuple[Indexable, np.ndarray]], batch_size: int
) -> dict[str, float]:
    """Score the network on several parts, inputs and target by the prefix of the scores' names."""
    return {
        f"{prefix}{name}": value
        for prefix, (inputs, target) in parts.items()
        for name, value in scores_of(predict_outputs(network, inputs, batch_size), target).items()
    }


def seeds(seed: int, n: int) -> Sequence[int]:
    """Return `n` seeds for the parts of a network, none of them the global one."""
    return [int(state) for state in np.random.SeedSequence(seed).generate_state(n) % 2**31]
