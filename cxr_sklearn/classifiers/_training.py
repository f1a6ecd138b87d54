"""The training loop that both Keras classifiers share: epochs, checkpoints, exact batch-norm statistics."""

from __future__ import annotations

import hashlib
import json
import math
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from scipy.special import log_softmax
from sklearn.metrics import accuracy_score, roc_auc_score

from .._io import atomic_write
from .._keras import import_keras
from .._progress import progress_bar
from ..exceptions import TrainingError


class Snapshot(NamedTuple):
    """What a checkpoint holds."""

    #: Lists of arrays by name: weights, moments of the optimizer, ...
    arrays: dict[str, list[np.ndarray]]
    #: What else belongs to it, as JSON can hold it.
    facts: dict[str, Any]


class Checkpoint:
    """The file of one training in a folder; trainings that differ in anything have files of different names.

    Parameters
    ----------
    folder : path
        Created if need be.
    identity : mapping
        All that decides how the training goes, by name; what the ``repr`` of a value does not say is not told apart.
    rows : iterable of bytes
        The training images and labels in their order, and whatever else is too long for `identity`.

    Raises
    ------
    OSError
        If the folder cannot be made or written to.
    """

    def __init__(self, folder: str | os.PathLike[str], identity: Mapping[str, Any], rows: Iterable[bytes]) -> None:
        digest = hashlib.sha256(repr(sorted((name, repr(value)) for name, value in identity.items())).encode())
        for row in rows:
            digest.update(len(row).to_bytes(8) + row)
        self.path = Path(folder) / f"{digest.hexdigest()[:32]}.npz"
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def facts(self) -> dict[str, Any] | None:
        """Return the facts that were saved last, without reading an array; None where nothing was saved.

        Raises
        ------
        TrainingError
            If the file is damaged.
        """
        found = self._read(with_arrays=False)
        return None if found is None else found.facts

    def load(self) -> Snapshot | None:
        """Return what was saved last, None where nothing was.

        Raises
        ------
        TrainingError
            If the file is damaged.
        """
        return self._read(with_arrays=True)

    def _read(self, *, with_arrays: bool) -> Snapshot | None:
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
        """Replace what was saved before, wholly or not at all.

        Raises
        ------
        OSError
            If the file cannot be written; what was saved before is still there then.
        """
        lists = {name: len(values) for name, values in arrays.items()}
        named: dict[str, Any] = {
            f"{name} {i}": value for name, values in arrays.items() for i, value in enumerate(values)
        }
        with atomic_write(self.path) as draft, draft.open("wb") as file:
            np.savez(file, facts=np.array(json.dumps({**facts, "lists": lists})), **named)


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


def compile_for_training(
    network: Any,
    learning_rate: Any,
    *,
    weight_decay: float = 0.0,
    label_smoothing: float = 0.0,
) -> None:
    """Compile `network` with Adam on the cross-entropy of its logits.

    Parameters
    ----------
    network : keras.Model
    learning_rate : float or keras.optimizers.schedules.LearningRateSchedule
    weight_decay : float
        Part of each kernel that a step at the full rate takes away, times the rate (Loshchilov & Hutter, 2019); biases
        and batch normalisation are left alone.
    label_smoothing : float
        Part of each label that is shared out among all classes.
    """
    keras = import_keras()
    rate = float(learning_rate) if isinstance(learning_rate, Real) else learning_rate  # Keras refuses NumPy's numbers
    optimizer = keras.optimizers.AdamW(rate, weight_decay=float(weight_decay))
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
    """Return a learning rate that rises in a line to its peak and then stays there or falls to 0 by half a cosine.

    Parameters
    ----------
    peak : float
    schedule : {"constant", "cosine"}
    n_warmup, n_steps : int
        Batches until the peak, and in all.
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
    """Return the one output of a network for all rows, in order, float32."""
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


@dataclass
class Standing:
    """Where a training stands after some epochs: all of it that is not in the network or its optimizer."""

    #: One number per epoch that is done, by the names of the scores.
    history: dict[str, list[float]] = field(default_factory=dict)
    #: The least validation loss so far, the epochs since, and the weights it belongs to.
    best_loss: float = math.inf
    n_since: int = 0
    best: list[np.ndarray] = field(default_factory=list)
    #: Sums of the weights after the last epochs.
    summed: list[np.ndarray] = field(default_factory=list)
    n_summed: int = 0
    is_done: bool = False

    @property
    def n_epochs(self) -> int:
        """How many epochs are done."""
        return len(self.history.get("loss", ()))


@dataclass(frozen=True)
class Training:
    """How a compiled network is trained.

    Parameters
    ----------
    epochs : int
        At most so many passes.
    n_batches : int
        Of an epoch.
    dataset_of : callable
        From the epoch's number, from 0 on, to its batches; the same number gives the same batches.
    evaluate : callable
        Called after each epoch; its scores go into the history, and "val_loss" among them decides when to stop.
    patience : int or None
        Epochs without a lower validation loss after which to stop, with the weights of the best epoch; None never
        stops and keeps the last weights.
    n_averaged : int
        The weights at the end are the mean of those after so many last epochs (Izmailov et al., 2018); 0 for the last.
    settle : callable or None
        Called once the network has these weights.
    checkpoint : Checkpoint or None
        Where to go on from, and what to write after every epoch.
    first_phase : mapping
        What a checkpoint is to hold of what came before, as JSON can.
    label : str
        What to call the progress bar.
    verbose : int
    """

    epochs: int
    n_batches: int
    dataset_of: Callable[[int], Any]
    evaluate: Callable[[], dict[str, float]]
    patience: int | None
    label: str
    verbose: int
    n_averaged: int = 0
    settle: Callable[[], None] | None = None
    checkpoint: Checkpoint | None = None
    first_phase: Mapping[str, Any] = field(default_factory=dict)

    def run(self, network: Any, val_loss: float = math.inf) -> dict[str, list[float]]:
        """Train a network and leave it with the weights of its best epoch, or their mean over the last ones.

        Parameters
        ----------
        network : keras.Model
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
        if not network.optimizer.built:  # its moments belong to every snapshot, that before the first epoch too
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
            while standing.n_epochs < self.epochs and not self._is_over(standing):
                epoch = standing.n_epochs
                advance(0, f"epoch {epoch + 1} of {self.epochs}{_latest_auc(standing.history)}")
                told = advance if self.verbose > 0 else None
                scores = {**_one_epoch(network, self.dataset_of(epoch), told), **self.evaluate()}
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

    def _is_over(self, standing: Standing) -> bool:
        return self.patience is not None and standing.n_since >= self.patience

    def _note(self, network: Any, standing: Standing) -> None:
        """Keep the weights of an epoch where they may be wanted at the end."""
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
        if not standing.is_done:  # all that a finished training needs is its weights
            arrays["optimizer"] = [_as_array(variable) for variable in network.optimizer.variables]
            arrays |= {"best": standing.best, "summed": standing.summed}
        self.checkpoint.save(arrays, {**facts, "first_phase": dict(self.first_phase)})

    def _resumed(self, network: Any) -> Standing | None:
        """Put a network where its training stood when it was saved last."""
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


def _one_epoch(network: Any, dataset: Any, advance: Callable[[int], None] | None) -> dict[str, float]:
    callbacks = []
    if advance is not None:  # Keras waits for every batch where somebody wants to hear of it
        progress = import_keras().callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: advance(1))
        callbacks.append(progress)
    try:
        logs = network.fit(dataset, epochs=1, shuffle=False, verbose=0, callbacks=callbacks).history
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
