"""The training loop that both Keras classifiers share: epochs, checkpoints, exact batch-norm statistics."""

from __future__ import annotations

import hashlib
import json
import math
import os
import zipfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from numbers import Real
from typing import Any, NamedTuple, Protocol

import numpy as np
from scipy.special import log_softmax
from sklearn.metrics import accuracy_score, roc_auc_score

from .._io import atomic_write, user_path
from .._keras import filled_up, import_keras
from .._progress import progress_bar
from ..exceptions import TrainingError


class Snapshot(NamedTuple):
    """The content of a checkpoint."""

    #: Lists of arrays by name: weights, moments of the optimizer, ...
    arrays: dict[str, list[np.ndarray]]
    #: Everything else, JSON-serialisable.
    facts: dict[str, Any]


class Checkpoint:
    """The file of one training in a folder, which is created; trainings that differ in anything have different files.

    `identity` holds everything that decides how the training proceeds, by name; values are compared by their ``repr``.
    `rows` are the training images and labels in order, and anything else that is too long for `identity`.
    """

    def __init__(self, folder: str | os.PathLike[str], identity: Mapping[str, Any], rows: Iterable[bytes]) -> None:
        digest = hashlib.sha256(repr(sorted((name, repr(value)) for name, value in identity.items())).encode())
        for row in rows:
            digest.update(len(row).to_bytes(8) + row)
        self.path = user_path(folder) / f"{digest.hexdigest()[:32]}.npz"
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def load(self, *, with_arrays: bool = True) -> Snapshot | None:
        """Return the last snapshot, or None if there is none; its arrays are read only on request."""
        if not self.path.exists():
            return None
        try:
            with np.load(self.path, allow_pickle=False) as file:
                facts = json.loads(str(file["facts"]))
                lists = facts.pop("lists")
                arrays = {name: [file[f"{name} {i}"] for i in range(n)] for name, n in lists.items() if with_arrays}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise TrainingError(
                f"the checkpoint {self.path} cannot be read ({error}); remove it to train from the start"
            ) from error
        return Snapshot(arrays, facts)

    def save(self, arrays: Mapping[str, list[np.ndarray]], facts: Mapping[str, Any]) -> None:
        """Replace the last snapshot; where the file cannot be written, that one is kept."""
        lists = {name: len(values) for name, values in arrays.items()}
        named: Any = {f"{name} {i}": value for name, values in arrays.items() for i, value in enumerate(values)}
        with atomic_write(self.path) as draft, draft.open("wb") as file:
            np.savez(file, facts=np.array(json.dumps({**facts, "lists": lists})), **named)


#: Batches that are read ahead of the network.
_AHEAD = 2


class Indexable(Protocol):
    """Images, or a frozen network's output for them; index arrays give rows."""

    def __len__(self) -> int: ...
    def __getitem__(self, rows: np.ndarray) -> Any: ...


def batches(
    inputs: Indexable, target: np.ndarray, weight: np.ndarray, batch_size: int, order: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield images, classes and weights of the rows in `order`, while a thread reads the next two batches."""

    def read(start: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rows = order[start : start + batch_size]
        return np.asarray(inputs[rows]), target[rows], weight[rows]

    starts = iter(range(0, len(order), batch_size))
    with ThreadPoolExecutor(1) as thread:
        ahead = deque(thread.submit(read, start) for start in islice(starts, _AHEAD))
        while ahead:
            batch = ahead.popleft().result()
            ahead.extend(thread.submit(read, start) for start in islice(starts, 1))
            yield batch


def compile_for_training(
    network: Any,
    learning_rate: Any,
    *,
    weight_decay: float = 0.0,
    label_smoothing: float = 0.0,
) -> None:
    """Compile `network` with Adam on the cross-entropy of its logits; the learning rate is a number or a schedule.

    Each step shrinks each kernel by `weight_decay` times the learning rate (Loshchilov & Hutter, 2019), but no bias and
    no batch normalisation. `label_smoothing` is the part of each label that is spread over all classes.
    """
    keras = import_keras()
    rate = float(learning_rate) if isinstance(learning_rate, Real) else learning_rate  # Keras refuses NumPy's numbers
    # A decay of 0.0 would cost Keras a pass over all weights in each step.
    optimizer = keras.optimizers.Adam(rate, weight_decay=float(weight_decay) or None)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])

    def smoothed(target: Any, logits: Any) -> Any:
        shares = keras.ops.one_hot(keras.ops.cast(target, "int32"), logits.shape[-1], dtype="float32")
        return keras.losses.categorical_crossentropy(
            shares, logits, from_logits=True, label_smoothing=float(label_smoothing)
        )

    network.compile(
        optimizer=optimizer,
        loss=smoothed if label_smoothing else keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
        jit_compile=keras.backend.backend() == "jax",
    )


def scheduled(peak: float, schedule: str, n_warmup: int, n_steps: int) -> Any:
    """Return a learning rate that rises linearly to its peak and then stays there or falls to 0 along half a cosine.

    The peak is reached after `n_warmup` of `n_steps` batches.
    """
    schedules = import_keras().optimizers.schedules
    if schedule == "cosine":
        first, target = (0.0, float(peak)) if n_warmup else (float(peak), None)
        n_decay = max(n_steps - n_warmup, 1)
        return schedules.CosineDecay(first, n_decay, warmup_target=target, warmup_steps=n_warmup)
    if n_warmup:
        return schedules.PolynomialDecay(0.0, n_warmup, end_learning_rate=float(peak))
    return float(peak)


def predict_outputs(network: Any, inputs: Indexable, batch_size: int) -> np.ndarray:
    """Return the output of a single-output network for all rows, in order, float32."""
    (output,) = predict_all_outputs(network, inputs, batch_size)
    return output


def predict_all_outputs(network: Any, inputs: Indexable, batch_size: int) -> list[np.ndarray]:
    """Return each of the network's outputs for all rows, in order, float32."""
    parts = []
    for start in range(0, len(inputs), batch_size):
        rows = np.arange(start, min(start + batch_size, len(inputs)))
        found = network.predict_on_batch(filled_up(np.asarray(inputs[rows]), batch_size))
        outputs = found if isinstance(found, list | tuple) else [found]
        parts.append([np.asarray(output)[: len(rows)] for output in outputs])
    return [np.concatenate(output).astype(np.float32) for output in zip(*parts, strict=True)]


def scores_of(logits: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """Return loss, accuracy and, with two classes, ROC AUC of `logits`."""
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


@dataclass
class Standing:
    """The state of a training after some epochs, apart from that of the network and its optimizer."""

    #: One number per finished epoch, by the name of the score.
    history: dict[str, list[float]] = field(default_factory=dict)
    #: The least validation loss so far, the number of epochs since then, and the weights of that epoch.
    best_loss: float = math.inf
    n_since: int = 0
    best: list[np.ndarray] = field(default_factory=list)
    #: Sums of the weights after the last epochs.
    summed: list[np.ndarray] = field(default_factory=list)
    n_summed: int = 0
    is_done: bool = False

    @property
    def n_epochs(self) -> int:
        """Number of finished epochs."""
        return len(self.history.get("loss", ()))


@dataclass(frozen=True)
class Training:
    """The training of a compiled network."""

    #: Largest number of epochs.
    epochs: int
    #: Batches of an epoch.
    n_batches: int
    #: From the number of an epoch, counted from 0, to its batches; always the same for the same number.
    dataset_of: Callable[[int], Iterable[Any]]
    #: Called after each epoch. Its scores go into the history; "val_loss" among them decides when to stop.
    evaluate: Callable[[], dict[str, float]]
    #: Stop after so many epochs without a lower validation loss, with the weights of the best epoch. None never stops
    #: early and keeps the last weights.
    patience: int | None
    #: Title of the progress bar.
    label: str
    verbose: int
    #: The final weights are the mean over so many last epochs (Izmailov et al., 2018); 0 takes the last ones.
    n_averaged: int = 0
    #: Called when the network has its final weights.
    settle: Callable[[], None] | None = None
    #: Read before the training and written after each epoch.
    checkpoint: Checkpoint | None = None
    #: The state of the phase before this one, JSON-serialisable, for the checkpoint.
    first_phase: Mapping[str, Any] = field(default_factory=dict)

    def run(self, network: Any, val_loss: float = math.inf) -> dict[str, list[float]]:
        """Train a network, which gets the weights of its best epoch or their mean over the last ones.

        The history is returned, one number per epoch and score. If the present weights may turn out to be the best,
        `val_loss` is their validation loss.
        """
        if not network.optimizer.built:  # all snapshots have its state, even the one before the first epoch
            network.optimizer.build(network.trainable_variables)
        standing = self._resumed(network)
        if standing is None:
            standing = Standing(best_loss=val_loss)
            if self.patience is not None and val_loss < math.inf:
                standing.best = network.get_weights()
            self._save(network, standing)
        if not standing.is_done:
            self._remaining_epochs(network, standing)
        return standing.history

    def _remaining_epochs(self, network: Any, standing: Standing) -> None:
        with progress_bar(self.label, self.epochs * self.n_batches, show=self.verbose > 0) as advance:
            advance(standing.n_epochs * self.n_batches)
            while standing.n_epochs < self.epochs and (self.patience is None or standing.n_since < self.patience):
                epoch = standing.n_epochs
                advance(0, f"epoch {epoch + 1} of {self.epochs}{_latest_auc(standing.history)}")
                scores = {**_one_epoch(network, self.dataset_of(epoch), advance), **self.evaluate()}
                if not all(np.isfinite(value) for value in scores.values()):
                    raise TrainingError(f"the loss of epoch {epoch + 1} is not a number; try a lower learning rate")
                for name, value in scores.items():
                    standing.history.setdefault(name, []).append(value)
                self._note(network, standing)
                self._save(network, standing)
        if standing.best:
            network.set_weights(standing.best)
        elif standing.summed:
            network.set_weights([total / standing.n_summed for total in standing.summed])
        if self.settle is not None:
            self.settle()
        standing.is_done = True
        self._save(network, standing)

    def _note(self, network: Any, standing: Standing) -> None:
        """Keep the weights of an epoch if the final weights may depend on them."""
        if self.patience is not None:
            standing.n_since += 1
            if (loss := standing.history["val_loss"][-1]) < standing.best_loss:
                standing.best_loss, standing.n_since, standing.best = loss, 0, network.get_weights()
        elif standing.n_epochs > self.epochs - self.n_averaged:
            weights = [weight.astype(np.float64) for weight in network.get_weights()]
            earlier = standing.summed or [np.zeros(())] * len(weights)
            standing.summed = [a + b for a, b in zip(earlier, weights, strict=True)]
            standing.n_summed += 1

    def _save(self, network: Any, standing: Standing) -> None:
        if self.checkpoint is None:
            return
        facts = {name: value for name, value in vars(standing).items() if name not in ("best", "summed")}
        arrays = {"network": [_as_array(variable) for variable in network.variables]}
        if not standing.is_done:  # a finished training only needs its weights
            arrays["optimizer"] = [_as_array(variable) for variable in network.optimizer.variables]
            arrays |= {"best": standing.best, "summed": standing.summed}
        self.checkpoint.save(arrays, {**facts, "first_phase": dict(self.first_phase)})

    def _resumed(self, network: Any) -> Standing | None:
        """Restore a network and the state of its training from the last snapshot."""
        found = None if self.checkpoint is None else self.checkpoint.load()
        if found is None:
            return None
        arrays = found.arrays
        for variable, value in zip(network.variables, arrays["network"], strict=True):
            variable.assign(value)
        if "optimizer" in arrays:
            for variable, value in zip(network.optimizer.variables, arrays["optimizer"], strict=True):
                variable.assign(value)
        facts = {name: value for name, value in found.facts.items() if name != "first_phase"}
        return Standing(**facts, best=arrays.get("best", []), summed=arrays.get("summed", []))


def _as_array(variable: Any) -> np.ndarray:
    return np.asarray(import_keras().ops.convert_to_numpy(variable))


def _latest_auc(history: Mapping[str, list[float]]) -> str:
    for name, words in (("val_auc", "validation AUC"), ("auc", "training AUC")):
        if history.get(name):
            return f", {words} {history[name][-1]:.3f}"
    return ""


def _one_epoch(network: Any, dataset: Iterable[Any], advance: Callable[[int], None]) -> dict[str, float]:
    # Not network.fit: its epochs ended after 5.1 or 10.2 s, whatever they computed, probably because the thread that
    # tunes TensorFlow's pipeline of images makes pauses that double. Here nothing but the network is waited for.
    sums, n = np.zeros(2), 0
    for images, classes, weights in dataset:
        network.reset_metrics()  # as later versions of Keras do by themselves
        logs = network.train_on_batch(images, classes, weights, return_dict=True)
        sums += len(images) * np.array([float(logs["loss"]), float(logs["accuracy"])])
        n += len(images)
        advance(1)
    loss, accuracy = (sums / n).tolist()
    return {"batch_loss": loss, "batch_accuracy": accuracy}


def monitored_scores(
    network: Any, parts: Mapping[str, tuple[Indexable, np.ndarray]], batch_size: int
) -> dict[str, float]:
    """Score the network on several parts of the data: inputs and target by the prefix of the scores' names."""
    return {
        f"{prefix}{name}": value
        for prefix, (inputs, target) in parts.items()
        for name, value in scores_of(predict_outputs(network, inputs, batch_size), target).items()
    }


def seeds(seed: int, n: int) -> Sequence[int]:
    """Return `n` seeds for the layers of a network, independent of any global seed."""
    return [int(state) for state in np.random.SeedSequence(seed).generate_state(n) % 2**31]


def learning_normalisations(network: Any) -> list[Any]:
    """Return the trainable batch normalisation layers of a network, nested networks included."""
    keras, found = import_keras(), []
    for layer in network.layers:
        if isinstance(layer, keras.Model):
            found += learning_normalisations(layer)
        elif isinstance(layer, keras.layers.BatchNormalization) and layer.trainable:
            found.append(layer)
    return found


def estimate_statistics(network: Any, images: Indexable, batch_size: int) -> None:
    """Set mean and variance of each batch normalisation to those over `images`, batch by batch (Wu & Johnson, 2021).

    Keras predicts with moving averages that lag hundreds of steps behind the weights. Here the network processes the
    images as in training, where each layer normalises by the batch, but no weight changes. With a momentum of 0, the
    "moving average" is the mean and variance of the last batch; from these, mean and mean square are summed over
    batches. The images must be in shuffled order: a batch of a single class would not be like those of the training.
    """
    layers = learning_normalisations(network)
    if not layers:
        return
    momenta = [layer.momentum for layer in layers]
    weights = {id(weight) for weight in network.weights}
    # Dropout draws random numbers here, too; their states are restored, so that the training is not affected.
    seeds = [(state, _as_array(state).copy()) for state in network.variables if id(state) not in weights]
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
