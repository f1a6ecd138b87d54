"""FineTunedClassifier: a pretrained network of which the last layers learn."""

from __future__ import annotations

import logging
import os
from collections.abc import Hashable, Mapping
from numbers import Integral, Real
from types import SimpleNamespace
from typing import Any

import numpy as np

from ..augment import ImageAugmenter
from ..backbones import POOLINGS, Backbone, application, pooled, weights_identity
from ..exceptions import InputError
from ..images import ImageBatch
from ..keras_runtime import compile_for_prediction, dtype_policy, import_keras
from .base import KerasImageClassifier, check_number
from .cut import Cut, FrozenMaps
from .examples import Examples
from .training import batches, compile_for_training, monitored_scores, predict_outputs, seeds, train

log = logging.getLogger("cxr_sklearn")


class FineTunedClassifier(KerasImageClassifier):
    """A pretrained network with a new head: first the head learns, then the last layers with it.

    The network is cut at `trainable_from`. What the frozen part before it makes of an image never changes, so it is
    computed once per image and view, for all folds and candidates of a process, and an epoch costs only the part that
    learns. The result is that of training the whole network with its first layers frozen.

    Batch normalisation in the part that learns keeps the statistics, scale and offset it was pretrained with.

    Parameters
    ----------
    backbone : str, default="VGG16"
        Name of any network in ``keras.applications``.
    weights : str or path, default="imagenet"
        "imagenet" (downloaded and kept by Keras), the path of a weights file in Keras' layout without the top, or
        "random" (seeded, for trying things out).
    trainable_from : str, default="block5_conv1"
        The first layer that learns.
    layer : str or None, default=None
        The last layer before the head; None keeps all but the top.
    pooling : {"avg", "max", "flatten"}, default="avg"
        How the last feature maps become one vector, which is then standardised.
    dense_units : int, default=256
        Units of the head's hidden layer; 0 leaves it out.
    head_epochs : int, default=20
        At most so many passes over the training images for the head alone.
    head_learning_rate : float, default=0.001
        Of Adam, for the head alone.
    epochs : int, default=10
        At most so many passes for head and last layers together.
    learning_rate : float, default=0.00001
        Of Adam, for head and last layers together.
    batch_size : int, default=32
    dropout : float, default=0.5
        Before the last layer.
    class_weight : "balanced", dict or None, default=None
        Weights by label.
    early_stopping : bool, default=True
        Stop either phase once the validation loss has not fallen for `patience` epochs, and keep the weights of the
        best epoch; where training the last layers never helped, those are the weights of the first phase.
    validation_fraction : float, default=0.2
        Part of the training images held out for that, unless ``fit`` is given `X_val`; rounded to one over a whole
        number, and at most a half.
    patience : int, default=4
    augmenter : ImageAugmenter or None, default=None
        In each epoch every training image is itself or one of `n_views` fixed views, at random.
    n_views : int, default=4
        Without an augmenter there are none.
    memory_budget : int, default=2 * 1024**3
        Bytes of frozen output, float16, that this process keeps, until it ends, for all such classifiers together.
        What does not fit is computed again in every epoch, and a warning is logged.
    carry_frozen : bool, default=False
        Whether a fitted classifier carries the weights of the frozen part, rather than their SHA-256 alone: it is
        larger then, and needs no weights file where it is loaded.
    precision : {"auto", "float32", "bfloat16"}, default="auto"
    random_state : int or None, default=None
        The same seed on the same machine gives the same weights.
    verbose : int, default=0
        1 shows progress bars.

    Attributes
    ----------
    weights_id_ : str
        "random:<seed>", or "sha256:<digest of the weights file>", with "imagenet:" before it if Keras found the file.
    head_history_ : dict of str to list of float
        As ``history_``, for the epochs in which the head learned alone.
    feature_mean_, feature_scale_ : ndarray of shape (d,)
        What the pooled features are standardised by: mean and standard deviation before training, the latter at
        least a tenth of its mean over the features.
    frozen_weights_ : list of ndarray
        With `carry_frozen` only.

    Examples
    --------
    >>> from cxr_sklearn import FineTunedClassifier, ImageLoader
    >>> from sklearn.pipeline import make_pipeline
    >>> model = make_pipeline(ImageLoader(), FineTunedClassifier("VGG16", trainable_from="block5_conv1"))
    """

    weights_id_: str
    head_history_: dict[str, list[float]]
    feature_mean_: np.ndarray
    feature_scale_: np.ndarray
    frozen_weights_: list[np.ndarray]
    _ARCHITECTURE = ("backbone", "weights", "trainable_from", "layer", "pooling", "dense_units", "dropout")

    def __init__(
        self,
        backbone: str = "VGG16",
        weights: str | os.PathLike[str] = "imagenet",
        trainable_from: str = "block5_conv1",
        layer: str | None = None,
        pooling: str = "avg",
        dense_units: int = 256,
        head_epochs: int = 20,
        head_learning_rate: float = 1e-3,
        epochs: int = 10,
        learning_rate: float = 1e-5,
        batch_size: int = 32,
        dropout: float = 0.5,
        class_weight: str | Mapping[Any, float] | None = None,
        early_stopping: bool = True,
        validation_fraction: float = 0.2,
        patience: int = 4,
        augmenter: ImageAugmenter | None = None,
        n_views: int = 4,
        memory_budget: int = 2 * 1024**3,
        carry_frozen: bool = False,
        precision: str = "auto",
        random_state: int | None = None,
        verbose: int = 0,
    ) -> None:
        super().__init__(
            epochs,
            batch_size,
            learning_rate,
            dropout,
            class_weight,
            early_stopping,
            validation_fraction,
            patience,
            augmenter,
            precision,
            random_state,
            verbose,
        )
        self.backbone = backbone
        self.weights = weights
        self.trainable_from = trainable_from
        self.layer = layer
        self.pooling = pooling
        self.dense_units = dense_units
        self.head_epochs = head_epochs
        self.head_learning_rate = head_learning_rate
        self.n_views = n_views
        self.memory_budget = memory_budget
        self.carry_frozen = carry_frozen

    def _check_parameters(self) -> None:
        super()._check_parameters()
        application(self.backbone)
        if self.pooling not in POOLINGS:
            raise InputError(f"pooling={self.pooling!r} must be one of {POOLINGS}")
        for name in ("dense_units", "head_epochs", "n_views", "memory_budget"):
            check_number(name, getattr(self, name), Integral, 0)
        check_number("head_learning_rate", self.head_learning_rate, Real, 0, open_below=True)
        if self.carry_frozen and self.weights == "imagenet" and self.backbone.startswith("EfficientNetB"):
            raise InputError(
                f"Keras gives {self.backbone} another layer with weights='imagenet', so its weights alone cannot be "
                "carried; name the weights file by its path"
            )

    def _train(self, examples: Examples, validation: Examples | None) -> Any:
        self.weights_id_ = weights_identity(self.backbone, self.weights)
        if hasattr(self, "frozen_weights_"):
            del self.frozen_weights_
        tail, draw, wanted = self._tail(), np.random.default_rng(self._seed), set[Hashable]()
        augmenter = self._fitted_augmenter(examples.images)
        n_views = 0 if augmenter is None else self.n_views
        self._warn_of_memory(len(examples) * (1 + n_views) + len(validation or ()), tail.input_shape)

        def maps(part: Examples, view: int | np.ndarray = 0) -> FrozenMaps:
            images = part.images if augmenter is None else augmenter.view(part.images, view)
            frozen = self._inputs(images)
            frozen.keep(self.memory_budget, wanted, self.verbose)
            return frozen

        features = [predict_outputs(tail, maps(examples, view), self.batch_size) for view in range(1 + n_views)]
        self.feature_mean_ = features[0].mean(axis=0)
        spread = features[0].std(axis=0)
        # What hardly varies yet must not be blown up once the layers before it learn.
        self.feature_scale_ = np.maximum(spread, 0.1 * spread.mean() or 1)
        head = self._head(features[0].shape[1:])
        held_out = None if validation is None else predict_outputs(tail, maps(validation), self.batch_size)
        self._train_head(head, np.stack(features), held_out, examples, validation)
        network = self._whole(tail, head)
        compile_for_training(network, self.learning_rate)
        parts = self._monitored(examples, validation)

        def dataset_of(epoch: int) -> Any:
            views = draw.integers(0, n_views + 1, len(examples))
            order = draw.permutation(len(examples))
            return batches(maps(examples, views), examples.target, examples.weight, self.batch_size, order)

        self.history_ = train(
            network,
            epochs=self.epochs,
            dataset_of=dataset_of,
            evaluate=lambda: monitored_scores(network, parts, self.batch_size),
            patience=self.patience if validation is not None and self.early_stopping else None,
            label=f"Fine-tuning {self.backbone}",
            verbose=self.verbose,
            val_loss=min(self.head_history_.get("val_loss", [np.inf])),
        )
        if self.carry_frozen:
            self.frozen_weights_ = self._cut().frozen().get_weights()
        return network

    def _train_head(
        self, head: Any, features: np.ndarray, held_out: np.ndarray | None, examples: Examples,
        validation: Examples | None,
    ) -> None:  # fmt: skip
        """Train the head on the features of all views, ``float32 (1 + n_views, n, d)``; nothing else changes yet."""
        draw = np.random.default_rng(self._seed)
        rows = np.arange(len(examples))
        parts = {"": (features[0], examples.target)}
        if held_out is not None and validation is not None:
            parts["val_"] = (held_out, validation.target)
        compile_for_training(head, self.head_learning_rate)

        def dataset_of(epoch: int) -> Any:
            views, order = draw.integers(0, len(features), len(rows)), draw.permutation(rows)
            return batches(features[views, rows], examples.target, examples.weight, self.batch_size, order)

        self.head_history_ = train(
            head,
            epochs=self.head_epochs,
            dataset_of=dataset_of,
            evaluate=lambda: monitored_scores(head, parts, self.batch_size),
            patience=self.patience if validation is not None and self.early_stopping else None,
            label="Training the head",
            verbose=self.verbose,
        )

    def _warn_of_memory(self, n: int, map_shape: tuple[int, ...]) -> None:
        needed = n * 2 * int(np.prod(map_shape[1:]))
        if needed > self.memory_budget:
            log.warning(
                "the frozen output of %d images and views takes %d MB, more than memory_budget=%d bytes: what does not "
                "fit is computed again in every epoch", n, needed // 1_000_000, self.memory_budget,
            )  # fmt: skip

    def _cut(self) -> Cut:
        design = SimpleNamespace(**self.architecture_)
        backbone = Backbone(design.backbone, design.weights, self.weights_id_, design.layer, self.precision_)
        carried = getattr(self, "frozen_weights_", None)
        return Cut(backbone, design.trainable_from, self.image_shape_, carried and tuple(carried))

    def _inputs(self, batch: ImageBatch) -> FrozenMaps:
        return FrozenMaps(self._cut(), batch, self.batch_size)

    def _build(self) -> Any:
        return self._whole(self._tail(), self._head(self.feature_mean_.shape))

    def _tail(self) -> Any:
        """Return the network from kept maps, float16, to one vector of features."""
        keras = import_keras()
        tail = self._cut().tail()
        maps = keras.Input(tail.input_shape[1:], dtype="float16")
        features = pooled(tail(keras.ops.cast(maps, tail.input.dtype)), self.architecture_["pooling"])
        return compile_for_prediction(keras.Model(maps, features))

    def _head(self, shape: tuple[int, ...]) -> Any:
        """Return the network from features to logits."""
        keras = import_keras()
        layers = keras.layers
        kernel, dropout, last = seeds(self._seed, 3)
        features = keras.Input(shape)
        with dtype_policy(keras, "float32"):  # it costs nothing here
            h = layers.Rescaling(1 / self.feature_scale_, -self.feature_mean_ / self.feature_scale_)(features)
            if self.architecture_["dense_units"]:
                draw = keras.initializers.GlorotUniform(seed=kernel)
                h = layers.Dense(self.architecture_["dense_units"], activation="relu", kernel_initializer=draw)(h)
            h = layers.Dropout(self.architecture_["dropout"], seed=dropout)(h)
            draw = keras.initializers.GlorotUniform(seed=last)
            logits = layers.Dense(len(self.classes_), kernel_initializer=draw)(h)
        return keras.Model(features, logits)

    def _whole(self, tail: Any, head: Any) -> Any:
        return compile_for_prediction(import_keras().Model(tail.input, head(tail.output)))
