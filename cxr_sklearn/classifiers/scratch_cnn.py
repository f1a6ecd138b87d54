"""ScratchCNNClassifier: a small convolutional network trained from scratch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Integral
from types import SimpleNamespace
from typing import Any

import numpy as np

from .._io import public
from .._keras import compile_for_prediction, import_keras, keras_settings
from ..exceptions import InputError
from ..images.augment import ImageAugmenter
from ..images.batch import ImageBatch
from ._training import (
    Training,
    batches,
    compile_for_training,
    estimate_statistics,
    monitored_scores,
    predict_outputs,
    scores_of,
    seeds,
)
from .base import Examples, KerasImageClassifier, check_number, in_memory

#: Bytes of decoded images that a fit keeps, a byte per pixel; more images than that are decoded in every epoch.
_MOST_IN_MEMORY = 2 * 1024**3


@public
class ScratchCNNClassifier(KerasImageClassifier):
    """A convolutional network trained from scratch: blocks of convolution, batch normalisation and pooling.

    Images are decoded once and kept during ``fit``, a byte per pixel, unless they take more than 2 GiB.

    By default, batch normalisation predicts with exact statistics: before each validation and at the end of training,
    mean and variance are computed over the training images (Wu & Johnson, 2021). Keras' own moving averages need
    hundreds of steps to catch up with the weights. With a few hundred images an epoch has a dozen steps, so a network
    that classifies its training batches well may still call every image pneumonia when it predicts.

    Parameters
    ----------
    filters : sequence of int, default=(32, 64, 128)
        Filters of each block; each block halves height and width.
    kernel_size : int, default=3
    batch_norm : bool, default=True
    batch_norm_statistics : {"exact", "moving"}, default="exact"
        "moving" keeps Keras' moving averages, to show how they fail.
    head : {"flatten", "avg"}, default="flatten"
        How the last feature maps become one vector.
    dense_units : int, default=128
    epochs : int, default=30
        Largest number of passes over the training images.
    batch_size : int, default=32
    learning_rate : float, default=0.001
        Of Adam.
    dropout : float, default=0.5
        Dropout rate before the last layer.
    class_weight : "balanced", dict or None, default=None
        Weights by label.
    early_stopping : bool, default=True
        Stop once the validation loss has not fallen for `patience` epochs, and keep the weights of the best epoch.
    validation_fraction : float, default=0.2
        Part of the training images held out for early stopping unless ``fit`` gets `X_val`, rounded to one over a whole
        number; at most a half.
    patience : int, default=8
    augmenter : ImageAugmenter or None, default=None
        Draws a new view of every training image for each epoch.
    precision : {"auto", "float32", "bfloat16"}, default="auto"
    random_state : int, RandomState or None, default=None
        The same seed on the same machine gives the same weights.
    verbose : int, default=0
        1 shows a progress bar.

    Attributes
    ----------
    batch_norm_scores_ : dict or None
        "used" is "exact" or "moving". With "moving" there are also "moving" and "exact": the loss, accuracy and AUC of
        the final weights with either statistics on "n_images" images. "part" says which: "validation", or "training" if
        no images were held out.

    References
    ----------
    Wu, Johnson (2021). Rethinking "Batch" in BatchNorm. https://arxiv.org/abs/2105.07576

    Examples
    --------
    >>> from cxr_sklearn import ImageLoader, ScratchCNNClassifier
    >>> from sklearn.pipeline import make_pipeline
    >>> model = make_pipeline(ImageLoader(size=128), ScratchCNNClassifier(random_state=0))
    """

    batch_norm_scores_: dict[str, Any] | None
    _ARCHITECTURE = ("filters", "kernel_size", "batch_norm", "head", "dense_units", "dropout")

    def __init__(
        self,
        filters: Sequence[int] = (32, 64, 128),
        kernel_size: int = 3,
        batch_norm: bool = True,
        batch_norm_statistics: str = "exact",
        head: str = "flatten",
        dense_units: int = 128,
        epochs: int = 30,
        batch_size: int = 32,
        learning_rate: float = 1e-3,
        dropout: float = 0.5,
        class_weight: str | Mapping[Any, float] | None = None,
        early_stopping: bool = True,
        validation_fraction: float = 0.2,
        patience: int = 8,
        augmenter: ImageAugmenter | None = None,
        precision: str = "auto",
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ) -> None:
        self.filters = filters
        self.kernel_size = kernel_size
        self.batch_norm = batch_norm
        self.batch_norm_statistics = batch_norm_statistics
        self.head = head
        self.dense_units = dense_units
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.dropout = dropout
        self.class_weight = class_weight
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.augmenter = augmenter
        self.precision = precision
        self.random_state = random_state
        self.verbose = verbose

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if self.batch_norm_statistics not in ("exact", "moving"):
            raise InputError(f"batch_norm_statistics={self.batch_norm_statistics!r} must be 'exact' or 'moving'")
        if self.head not in ("flatten", "avg"):
            raise InputError(f"head={self.head!r} must be 'flatten' or 'avg'")
        for name in ("kernel_size", "dense_units"):
            check_number(name, getattr(self, name), Integral, 1)
        if isinstance(self.filters, str | Integral) or not len(self.filters):
            raise InputError(f"filters={self.filters!r} must be a sequence of integers, one for each block")
        for n_filters in self.filters:
            check_number("filters", n_filters, Integral, 1)

    def _train(self, examples: Examples, validation: Examples | None) -> Any:
        network = self._build()
        compile_for_training(network, self.learning_rate)
        draw = np.random.default_rng(self._seed)
        examples = in_memory(examples, _MOST_IN_MEMORY, self.verbose)
        if validation is not None:
            validation = in_memory(validation, _MOST_IN_MEMORY, self.verbose)
        augmenter = self._fitted_augmenter(examples.images)
        mixed = _Grey(examples.images[draw.permutation(len(examples))])
        parts = self._monitored(examples, validation)

        def dataset_of(epoch: int) -> Any:
            images = examples.images if augmenter is None else augmenter.view(examples.images, epoch + 1)
            order = draw.permutation(len(examples))
            return batches(_Grey(images), examples.target, examples.weight, self.batch_size, order)

        def evaluate() -> dict[str, float]:
            if self.batch_norm_statistics == "exact":
                estimate_statistics(network, mixed, self.batch_size)
            return monitored_scores(network, parts, self.batch_size)

        self.history_ = Training(
            epochs=self.epochs,
            n_batches=math.ceil(len(examples) / self.batch_size),
            dataset_of=dataset_of,
            evaluate=evaluate,
            patience=self.patience if validation is not None and self.early_stopping else None,
            label="Training the CNN",
            verbose=self.verbose,
        ).run(network)
        self.batch_norm_scores_ = self._compare_statistics(network, mixed, examples, validation)
        return network

    def _compare_statistics(
        self, network: Any, mixed: _Grey, examples: Examples, validation: Examples | None
    ) -> dict[str, Any] | None:
        """Score a network that predicts with moving averages with both statistics, and leave it unchanged."""
        if not self.batch_norm or self.batch_norm_statistics == "exact":
            return {"used": "exact"} if self.batch_norm else None
        kept = network.get_weights()
        name, part = ("training", examples) if validation is None else ("validation", validation)
        inputs = _Grey(part.images)
        moving = scores_of(predict_outputs(network, inputs, self.batch_size), part.target)
        estimate_statistics(network, mixed, self.batch_size)
        exact = scores_of(predict_outputs(network, inputs, self.batch_size), part.target)
        network.set_weights(kept)
        return {"used": "moving", "part": name, "n_images": len(part), "moving": moving, "exact": exact}

    def _inputs(self, batch: ImageBatch) -> _Grey:
        return _Grey(batch)

    def _build(self) -> Any:
        """Return the network from grey images, ``uint8 (n, H, W, 1)``, to logits."""
        keras = import_keras()
        layers = keras.layers
        height, width, _ = self.image_shape_
        design = SimpleNamespace(**self.architecture_)
        seed = iter(seeds(self._seed, len(design.filters) + 3))

        def drawn() -> Any:
            return keras.initializers.GlorotUniform(seed=next(seed))

        with keras_settings(self.precision_):
            images = keras.Input((height, width, 1), dtype="uint8")
            h = layers.Rescaling(1 / 255)(images)
            for n_filters in design.filters:
                h = layers.Conv2D(
                    n_filters, design.kernel_size, padding="same", activation="relu", kernel_initializer=drawn()
                )(h)
                if design.batch_norm:
                    h = layers.BatchNormalization()(h)
                h = layers.MaxPooling2D(padding="same")(h)
            h = layers.Flatten()(h) if design.head == "flatten" else layers.GlobalAveragePooling2D()(h)
            h = layers.Dense(design.dense_units, activation="relu", kernel_initializer=drawn())(h)
            h = layers.Dropout(design.dropout, seed=next(seed))(h)
            logits = layers.Dense(len(self.classes_), dtype="float32", kernel_initializer=drawn())(h)
        return compile_for_prediction(keras.Model(images, logits))


class _Grey:
    """One of the three equal channels of images: a third of the bytes and of the first layer's weights."""

    def __init__(self, images: ImageBatch) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        return np.asarray(self._images[rows])[..., :1]
