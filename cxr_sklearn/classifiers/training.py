"""The training loop that the Keras classifiers share: epochs, validation, early stopping, all in memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from scipy.special import log_softmax
from sklearn.metrics import accuracy_score, roc_auc_score

from ..exceptions import TrainingError
from ..keras_runtime import import_keras
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
        def __init__(self, *data: Any) -> None:
            # One worker, for Keras reads ahead in a thread then; with more it also sleeps a tenth of a second an epoch.
            super().__init__(workers=1)
            self.data = data
            self.failure: Exception | None = None
            self._peeked: dict[int, Any] = {}

        def forget(self) -> None:
            self.data = ()
            self._peeked.clear()

        def __len__(self) -> int:
            return math.ceil(len(order) / batch_size)

        def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            if i in self._peeked:
                batch: tuple[np.ndarray, np.ndarray, np.ndarray] = self._peeked.pop(i)
                return batch
            try:
                images, classes, weights = self.data
                rows = order[i * batch_size : (i + 1) * batch_size]
                batch = np.asarray(images[rows]), classes[rows], weights[rows]
            except Exception as error:
                self.failure = error  # the backend would turn it into an error of its own
                raise
            if i < 2:  # Keras looks at the first two for their shapes, and then asks for them again
                self._peeked[i] = batch
            return batch

    return Batches(inputs, target, weight)


def compile_for_training(network: Any, learning_rate: float) -> None:
    """Compile `network` with Adam on the cross-entropy of its logits."""
    keras = import_keras()
    network.compile(
        optimizer=keras.optimizers.Adam(float(learning_rate)),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
        jit_compile=keras.backend.backend() == "jax",
    )


def predict_outputs(network: Any, inputs: Indexable, batch_size: int) -> np.ndarray:
    """Return the network's output for all rows, in order, float32."""
    parts = []
    for start in range(0, len(inputs), batch_size):
        rows = np.arange(start, min(start + batch_size, len(inputs)))
        batch = filled_up(np.asarray(inputs[rows]), batch_size)
        parts.append(np.asarray(network.predict_on_batch(batch))[: len(rows)])
    return np.concatenate(parts).astype(np.float32)


def filled_up(batch: np.ndarray, batch_size: int) -> np.ndarray:
    """Repeat rows until there are `batch_size`, or a power of two that is less: each new shape would be traced anew."""
    n = min(batch_size, 1 << max(len(batch) - 1, 0).bit_length())
    return np.resize(batch, (n, *batch.shape[1:]))


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
    best_loss : float
        The least validation loss before training.
    weights : list of ndarray or None
        The weights it belongs to.
    """

    def __init__(self, patience: int | None, best_loss: float, weights: list[np.ndarray] | None) -> None:
        self._patience = patience
        self._best_loss = best_loss
        self._since = 0
        self.weights = weights

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
    val_loss: float = math.inf,
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
    val_loss : float
        Validation loss before training, if the weights there are may turn out to be the best.

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
    start = network.get_weights() if patience is not None and val_loss < math.inf else None
    stopping = EarlyStopping(patience, val_loss, start)
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
    finally:
        dataset.forget()  # TensorFlow never lets go of a dataset, nor of what it holds
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
