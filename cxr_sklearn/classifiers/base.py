"""KerasImageClassifier: the base of the classifiers that train a network."""

from __future__ import annotations

import os
import warnings
import weakref
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.utils import check_random_state, column_or_1d
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.validation import _check_sample_weight, check_consistent_length, check_is_fitted

from .._keras import compile_for_prediction, import_keras, keras_settings, resolve_precision
from .._progress import progress_bar
from .._settings import usual_settings
from .._validation import check_groups, check_labels, check_parameters
from ..exceptions import InputError
from ..images._digests import hash_files
from ..images.augment import ImageAugmenter
from ..images.batch import ImageBatch, TakesImages, as_batch, every_unreadable
from ._training import Indexable, predict_outputs


@dataclass(frozen=True)
class Examples:
    """Images with their classes, as integers, and their weights."""

    images: ImageBatch
    target: np.ndarray
    weight: np.ndarray

    def take(self, rows: np.ndarray) -> Examples:
        """Return the examples at the given positions."""
        return Examples(self.images[rows], self.target[rows], self.weight[rows])

    def __len__(self) -> int:
        return len(self.target)


def in_memory(examples: Examples, budget: int, verbose: int) -> Examples:
    """Decode images once and for all, unless they take more than `budget` bytes: a byte per pixel."""
    n, height, width, _ = examples.images.shape
    if n * height * width > budget:
        return examples
    with progress_bar("Reading images", n, show=verbose > 0) as advance:
        return replace(examples, images=examples.images.in_memory(advance))


def hold_out(examples: Examples, groups: ArrayLike | None, fraction: float, seed: int) -> tuple[Examples, Examples]:
    """Split off whole groups, about `fraction` of the images of each class.

    Raises
    ------
    ValueError
        If there are too few groups for both sides to have every class.
    """
    if groups is None:
        _warn_of_unknown_patients()
    classes = np.unique(examples.target)
    by = check_groups(groups, len(examples))
    n_groups = [len(np.unique(by[examples.target == k])) for k in classes]
    n_splits = min(round(1 / fraction), max(n_groups))
    if min(n_groups) < 2:
        raise InputError(
            "early stopping holds images out, which needs two or more images (or groups) of every class; "
            "pass X_val and y_val, or early_stopping=False"
        )
    folds = StratifiedGroupKFold(n_splits, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # A class with fewer groups than folds is absent from some folds, which are filtered out below.
        warnings.filterwarnings("ignore", message="The least populated class")
        splits = list(folds.split(by, examples.target, by))
    complete = [s for s in splits if all(len(np.unique(examples.target[rows])) == len(classes) for rows in s)]
    if not complete:
        raise InputError(
            "whole groups cannot be held out so that both sides have every class; pass X_val and y_val, or "
            "early_stopping=False"
        )
    train, held_out = complete[0]
    return examples.take(train), examples.take(held_out)


_has_warned = False


def _warn_of_unknown_patients() -> None:
    """Warn, once in a process, that images are held out one by one."""
    global _has_warned
    if not _has_warned:
        _has_warned = True
        warnings.warn(
            "early stopping holds images out one by one, so the images of one patient may be on both sides; pass "
            "groups=patients to fit, or to cross_val_score and searches with sklearn.set_config("
            'enable_metadata_routing=True) and params={"groups": patients}',
            stacklevel=5,  # past the decorator of fit
        )


#: The fewest training images that are scored after each epoch. Each costs a pass through the network, only for a curve.
_MIN_MONITORED = 64


def check_number(
    name: str,
    value: Any,
    kind: type,
    low: float,
    high: float = np.inf,
    *,
    open_below: bool = False,
    open_above: bool = False,
) -> None:
    """Refuse a parameter that is not a number of the given kind, or outside its range."""
    is_number = isinstance(value, kind) and not isinstance(value, bool)
    if not is_number or not low <= value <= high or (open_below and value == low) or (open_above and value == high):
        noun = "an integer" if kind is Integral else "a number"
        below = "" if high == np.inf else f" and {'below' if open_above else 'at most'} {high}"
        raise InputError(f"{name}={value!r} must be {noun} {'above' if open_below else 'of at least'} {low}{below}")


def _plain(value: Any) -> Any:
    """Return a parameter in a form that every file format can hold: lists, text and Python's own numbers."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, np.generic):
        return value.item()
    return list(value) if isinstance(value, tuple) else value


class KerasImageClassifier(TakesImages, ClassifierMixin, BaseEstimator, ABC):
    """Base of the classifiers that train a Keras network on images.

    The fitted state is plain arrays and dicts: when the network is needed, it is rebuilt from ``weights_`` by this
    package's code, so a pickle contains neither code nor the state of an optimizer.

    Subclasses set the parameters below in ``__init__`` and define :meth:`_train`, :meth:`_build` and :meth:`_inputs`.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels, sorted.
    weights_ : list of ndarray
        The weights of the network, as Keras lists them.
    history_ : dict of str to list of float
        For each epoch "batch_loss" and "batch_accuracy", the means over the training batches during training (with
        dropout, batch statistics and, for the loss, weights). Then the scores of the network's predictions: "loss",
        "accuracy" and, with two classes, "auc" on a sample of the training images; the same with the prefix "val_" on
        the validation images, if there were any.
    n_epochs_ : int
        Epochs that were run; with early stopping, the weights are those of the epoch with the least validation loss.
    image_shape_ : tuple of int
        (H, W, 3) of the images in ``fit``.
    precision_ : {"float32", "bfloat16"}
    architecture_ : dict
        The parameters from which the network was built.
    """

    # With metadata routing, patients are requested by default, as by scikit-learn's group splitters.
    __metadata_request__fit = {"groups": True}
    #: Names of the parameters that define the network's architecture.
    _ARCHITECTURE: tuple[str, ...]

    weights_: list[np.ndarray]
    history_: dict[str, list[float]]

    epochs: int
    batch_size: int
    learning_rate: float
    dropout: float
    class_weight: str | Mapping[Any, float] | None
    early_stopping: bool
    validation_fraction: float
    patience: int
    augmenter: ImageAugmenter | None
    precision: str
    random_state: int | np.random.RandomState | None
    verbose: int

    @usual_settings
    def fit(
        self,
        X: ImageBatch | ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        X_val: ImageBatch | ArrayLike | None = None,
        y_val: ArrayLike | None = None,
        groups: ArrayLike | None = None,
    ) -> Self:
        """Train the network.

        Parameters
        ----------
        X : ImageBatch of n images, or ndarray of shape (n, H, W[, C]) and dtype uint8
        y : array-like of shape (n,)
            Labels of any type; two classes or more.
        sample_weight : array-like of shape (n,) or None
        X_val, y_val : as `X` and `y`, or None
            Images for early stopping. A Pipeline does not transform them, so load them first. Without them,
            `validation_fraction` of `X` is held out, by class and group.
        groups : array-like of shape (n,) or None
            Patients; none of them is on both sides of that hold-out. With None, every image is a patient of its own,
            and a warning says so once in a process.
            With scikit-learn's metadata routing, ``cross_val_score(model, X, y, params={"groups": ...})`` passes them.

        Returns
        -------
        self : KerasImageClassifier

        Raises
        ------
        ValueError
            If `X` is not images, `y` has another length or a single class, a parameter is wrong, there are too few
            classes or groups to hold any out, or the loss becomes NaN.
        ImageReadError
            If images cannot be read; the error lists every one.
        WeightsUnavailableError
            If the weights of a pretrained network are neither on disk nor available for download.
        """
        _networks.pop(self, None)
        if hasattr(self, "weights_"):  # a fit that fails leaves no classifier behind
            del self.weights_
        self._check_parameters()
        examples = self._examples(X, y, sample_weight)
        self.image_shape_ = examples.images.shape[1:]
        self.precision_ = resolve_precision(self.precision)
        self.architecture_ = {name: _plain(getattr(self, name)) for name in self._ARCHITECTURE}
        self._seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        if (X_val is None) != (y_val is None):
            raise InputError("X_val and y_val go together; one of them is missing")
        if X_val is not None and y_val is not None:
            validation: Examples | None = self._validation(as_batch(X_val), y_val)
        elif self.early_stopping:
            examples, validation = hold_out(examples, groups, self.validation_fraction, self._seed)
        else:
            validation = None
        with every_unreadable(examples.images, *([validation.images] if validation else [])), keras_settings():
            network = self._train(examples, validation)
        self.weights_ = network.get_weights()
        _networks[self] = compile_for_prediction(network)
        self.n_epochs_ = len(self.history_["loss"])
        return self

    @usual_settings
    def predict_proba(self, X: ImageBatch | ArrayLike) -> np.ndarray:
        """Return the probability of each class.

        Parameters
        ----------
        X : ImageBatch of n images, or ndarray of shape (n, H, W[, C]) and dtype uint8

        Returns
        -------
        ndarray of shape (n, n_classes) and dtype float64
            Columns in the order of ``classes_``.

        Raises
        ------
        ValueError
            If `X` is not images of the size seen in ``fit``, or holds none.
        ImageReadError
            If images cannot be read; the error lists every one.
        """
        check_is_fitted(self, "weights_")
        batch = as_batch(X)
        if not len(batch):
            raise InputError("there are no images to predict, 0 samples")
        if batch.shape[1:] != self.image_shape_:
            raise InputError(f"images of shape {batch.shape[1:]}, but fit saw {self.image_shape_}")
        with every_unreadable(batch), keras_settings():
            logits = predict_outputs(self._network(), self._inputs(batch), self.batch_size)
        return softmax(logits.astype(np.float64), axis=1)

    def predict(self, X: ImageBatch | ArrayLike) -> np.ndarray:
        """Return the most probable class of each image.

        Parameters
        ----------
        X : ImageBatch of n images, or ndarray of shape (n, H, W[, C]) and dtype uint8

        Returns
        -------
        ndarray of shape (n,)
        """
        best = np.argmax(self.predict_proba(X), axis=1)  # which checks that there has been a fit
        return self.classes_[best]

    @abstractmethod
    def _train(self, examples: Examples, validation: Examples | None) -> Any:
        """Set ``history_`` and return the trained network."""

    @abstractmethod
    def _build(self) -> Any:
        """Return the network from :meth:`_inputs` to logits; its weights do not matter."""

    @abstractmethod
    def _inputs(self, batch: ImageBatch) -> Indexable:
        """Return the network's inputs for a batch, to be indexed with an integer array."""

    def _training_inputs(self, batch: ImageBatch) -> Indexable:
        """Return the same for training, where they may be rounded and kept."""
        return self._inputs(batch)

    def network_inputs(self, X: ImageBatch | ArrayLike) -> Indexable:
        """Return the fitted network's inputs for images, to be indexed with an integer array."""
        return self._inputs(as_batch(X))

    @keras_settings()
    def networks_in_turn(self) -> list[Any]:
        """Return the Keras models that follow each other from images, ``uint8 (n, H, W, 1 or 3)``, to logits."""
        check_is_fitted(self, "weights_")
        return [self._network()]

    @keras_settings()
    def cut_at_last_maps(self) -> tuple[Any, Any]:
        """Cut the fitted network behind its last feature maps.

        Returns
        -------
        to_maps, to_logits : keras.Model
            From :meth:`network_inputs` to maps, (n, h, w, c), and from those to logits, (n, n_classes).
        """
        check_is_fitted(self, "weights_")
        network, keras = self._network(), import_keras()
        maps = [operation.output for operation in network.operations if len(operation.output.shape) == 4][-1]
        return compile_for_prediction(keras.Model(network.input, maps)), keras.Model(maps, network.output)

    @keras_settings()
    def _network(self) -> Any:
        network = _networks.get(self)
        if network is None:
            network = _networks[self] = self._build()
            network.set_weights(self.weights_)
        return network

    def _fitted_augmenter(self, images: ImageBatch) -> ImageAugmenter | None:
        return None if self.augmenter is None else self.augmenter.seeded(self._seed).fit(images)

    def _monitored(self, examples: Examples, validation: Examples | None) -> dict[str, tuple[Indexable, np.ndarray]]:
        """Return inputs and target of the images to score after each epoch, by the prefix of their scores' names.

        Of the training images only as many as there are validation images, but at least 64.
        """
        n = min(len(examples), max(len(validation or ()), _MIN_MONITORED))
        sample = examples.take(np.sort(np.random.default_rng(self._seed).permutation(len(examples))[:n]))
        parts = {"": (self._training_inputs(sample.images), sample.target)}
        if validation is not None:
            parts["val_"] = (self._training_inputs(validation.images), validation.target)
        return parts

    def _check_parameters(self) -> None:
        check_parameters(self)
        for name in ("epochs", "batch_size", "patience"):
            check_number(name, getattr(self, name), Integral, 1)
        check_number("learning_rate", self.learning_rate, Real, 0, open_below=True)
        check_number("validation_fraction", self.validation_fraction, Real, 0, 0.5, open_below=True)
        check_number("dropout", self.dropout, Real, 0, 1, open_above=True)

    def _examples(self, X: Any, y: Any, sample_weight: Any) -> Examples:
        images = as_batch(X)
        if not len(images):
            raise InputError("there are no images to fit on, 0 samples")
        labels = check_labels(y, type(self).__name__)
        check_consistent_length(images, labels)
        self.classes_ = np.unique(labels)
        if len(self.classes_) < 2:
            raise InputError(f"y holds one class, {self.classes_.tolist()[0]!r}; a classifier needs two or more")
        weight = _check_sample_weight(sample_weight, images, dtype=np.float64, copy=True, ensure_non_negative=True)
        # Keras silently ignores a dict keyed by label, so class weights become sample weights.
        weight *= compute_sample_weight(self.class_weight, labels)
        if (weight < 0).any():
            raise InputError(f"class_weight={self.class_weight!r} holds a negative weight")
        # With their digests recorded, files are hashed once rather than in every epoch.
        return Examples(images.pinned(hash_files), self._encode(labels), weight)

    def _validation(self, images: ImageBatch, y: ArrayLike) -> Examples:
        labels = column_or_1d(y, warn=True)
        check_consistent_length(images, labels)
        if not len(images):
            raise InputError("X_val holds no images")
        if images.shape[1:] != self.image_shape_:
            raise InputError(f"X_val holds images of shape {images.shape[1:]}, X of {self.image_shape_}")
        return Examples(images.pinned(hash_files), self._encode(labels), np.ones(len(images)))

    def _encode(self, labels: np.ndarray) -> np.ndarray:
        if len(unknown := np.setdiff1d(labels, self.classes_)):
            raise InputError(f"y_val holds labels that y does not: {unknown.tolist()}")
        return np.searchsorted(self.classes_, labels)


#: Built networks, so that a fitted classifier can predict at once; only its ``weights_`` are pickled.
_networks: weakref.WeakKeyDictionary[KerasImageClassifier, Any] = weakref.WeakKeyDictionary()
