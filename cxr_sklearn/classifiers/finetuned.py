"""FineTunedClassifier: a pretrained network whose last layers, or all layers, are trained further."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from types import SimpleNamespace
from typing import Any

import numpy as np

from .._io import ReadsEarlierFiles, public, versions_here
from .._keras import compile_for_prediction, import_keras, keras_settings
from ..exceptions import InputError
from ..features._backbones import POOLINGS, Backbone, application, pooled, weights_identity
from ..images.augment import ImageAugmenter
from ..images.batch import ImageBatch
from ._frozen_layers import Cut, FrozenMaps
from ._training import (
    Checkpoint,
    Indexable,
    Training,
    batches,
    compile_for_training,
    estimate_statistics,
    learning_normalisations,
    monitored_scores,
    predict_outputs,
    scheduled,
    seeds,
)
from .base import Examples, KerasImageClassifier, _plain, check_number, in_memory

log = logging.getLogger("cxr_sklearn")
SCHEDULES = ("constant", "cosine")
#: The `trainable_from` with which no layer is frozen.
ALL = "all"
#: With ``head_epochs=0``, at most this many images decide how features are standardised.
_SAMPLED = 512


@public
class FineTunedClassifier(ReadsEarlierFiles, KerasImageClassifier):
    """A pretrained network with a new head: first the head is trained, then the last layers, or all, along with it.

    The network is cut at `trainable_from`. The output of the frozen part before it never changes, so it is computed
    once per image and view for all folds and candidates of a process, and an epoch only costs the part that is trained.
    The result is the same as when the whole network is trained with its first layers frozen.

    Batch normalisation in the last layers keeps its pretrained statistics, scale and offset. Where the whole network is
    trained, it is trained too, and predicts with statistics computed over the training images, as in
    :class:`ScratchCNNClassifier`.

    Parameters
    ----------
    backbone : str, default="VGG16"
        Name of any network in ``keras.applications``.
    weights : str or path, default="imagenet"
        "imagenet" (downloaded and kept by Keras), the path of a weights file in Keras' layout without the top, or
        "random" (seeded, for trying things out).
    trainable_from : str, default="block5_conv1"
        The first layer to train; "all" for the whole network, which is then saved with all its weights.
    layer : str or None, default=None
        The last layer before the head; None keeps all but the top.
    pooling : {"avg", "max", "flatten"}, default="avg"
        How the last feature maps become one vector, which is then standardised.
    dense_units : int, default=256
        Units of the head's hidden layer; 0 omits it.
    head_epochs : int, default=20
        Largest number of passes over the training images for the head alone; 0 omits this phase.
    head_learning_rate : float, default=0.001
        Of Adam, for the head alone.
    epochs : int, default=10
        Largest number of passes for the head and the last layers together.
    learning_rate : float, default=0.00001
        Of Adam, for the head and the last layers together; the highest one of the `schedule`.
    schedule : {"constant", "cosine"}, default="constant"
        "cosine" lets the learning rate fall to 0 over the `epochs` along half a cosine (Loshchilov & Hutter, 2017).
    warmup : float, default=0.0
        Epochs, or a part of one, during which the learning rate rises linearly from 0.
    weight_decay : float, default=0.0
        Each step shrinks each kernel by this part, times the learning rate (AdamW; Loshchilov & Hutter, 2019).
    label_smoothing : float, default=0.0
        Part of each label that is spread over all classes.
    average_epochs : int, default=0
        The fitted weights are the mean over so many last epochs, or over all if there are fewer (Izmailov et al.,
        2018); this needs ``early_stopping=False``. 0 takes the weights of the last epoch.
    batch_size : int, default=32
    dropout : float, default=0.5
        Dropout rate before the last layer.
    class_weight : "balanced", dict or None, default=None
        Weights by label.
    early_stopping : bool, default=True
        Stop either phase once the validation loss has not fallen for `patience` epochs, and keep the weights of the
        best epoch; if training the last layers never helped, those are the weights of the first phase.
    validation_fraction : float, default=0.2
        Part of the training images held out for early stopping unless ``fit`` gets `X_val`, rounded to one over a whole
        number; at most a half.
    patience : int, default=4
    augmenter : ImageAugmenter or None, default=None
        In each epoch a training image is shown as it is or as one of `n_views` fixed views, at random.
    n_views : int or None, default=4
        None draws a new view of each image in each epoch. Frozen output cannot be reused then, so an epoch costs a
        forward pass of the whole network. Where nothing is frozen, views are always new.
    memory_budget : int, default=2 * 1024**3
        Bytes of frozen output that this process keeps until it ends, for all such classifiers together. The rest is
        computed again in every epoch, and a warning is logged. What is kept for training is rounded to float16;
        predictions are computed without rounding. During ``fit``, the decoded training images, a byte per pixel, are
        kept as well if they need no more than that.
    carry_frozen : bool, default=False
        Whether a fitted classifier contains the weights of the frozen part or only their SHA-256. With the weights it
        is larger, and can be loaded without a weights file.
    checkpoint : path or None, default=None
        Folder with one file per training, replaced after each epoch. If a fit was killed, repeat it with the same
        parameters on the same images: it continues from there, with the same result as without the interruption. A fit
        that was finished returns at once. While the network is trained, the file has up to five times its size. It is
        not removed afterwards; you may do so. Needs an integer `random_state`.
    precision : {"auto", "float32", "bfloat16"}, default="auto"
    random_state : int, RandomState or None, default=None
        The same seed on the same machine gives the same weights.
    verbose : int, default=0
        1 shows progress bars: epoch, time left and AUC.

    Attributes
    ----------
    weights_id_ : str
        "random:<seed>", or "sha256:<digest of the weights file>", with "imagenet:" before it if Keras found the file.
    head_history_ : dict of str to list of float
        As ``history_``, for the epochs in which only the head was trained.
    feature_mean_, feature_scale_ : ndarray of shape (d,)
        For standardising the pooled features: their mean and standard deviation before training, the latter at least a
        tenth of its mean over the features.
    frozen_weights_ : list of ndarray
        With `carry_frozen`; empty where nothing is frozen, and missing otherwise.

    References
    ----------
    Loshchilov, Hutter (2017). SGDR: stochastic gradient descent with warm restarts. ICLR.
    https://arxiv.org/abs/1608.03983
    Loshchilov, Hutter (2019). Decoupled weight decay regularization. ICLR. https://arxiv.org/abs/1711.05101
    Izmailov, Podoprikhin, Garipov, Vetrov, Wilson (2018). Averaging weights leads to wider optima and better
    generalization. UAI. https://arxiv.org/abs/1803.05407

    Examples
    --------
    >>> from cxr_sklearn import FineTunedClassifier, ImageLoader
    >>> from sklearn.pipeline import make_pipeline
    >>> model = make_pipeline(ImageLoader(), FineTunedClassifier("VGG16", trainable_from="block5_conv1"))
    """

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
        schedule: str = "constant",
        warmup: float = 0.0,
        weight_decay: float = 0.0,
        label_smoothing: float = 0.0,
        average_epochs: int = 0,
        batch_size: int = 32,
        dropout: float = 0.5,
        class_weight: str | Mapping[Any, float] | None = None,
        early_stopping: bool = True,
        validation_fraction: float = 0.2,
        patience: int = 4,
        augmenter: ImageAugmenter | None = None,
        n_views: int | None = 4,
        memory_budget: int = 2 * 1024**3,
        carry_frozen: bool = False,
        checkpoint: str | os.PathLike[str] | None = None,
        precision: str = "auto",
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ) -> None:
        self.backbone = backbone
        self.weights = weights
        self.trainable_from = trainable_from
        self.layer = layer
        self.pooling = pooling
        self.dense_units = dense_units
        self.head_epochs = head_epochs
        self.head_learning_rate = head_learning_rate
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.schedule = schedule
        self.warmup = warmup
        self.weight_decay = weight_decay
        self.label_smoothing = label_smoothing
        self.average_epochs = average_epochs
        self.batch_size = batch_size
        self.dropout = dropout
        self.class_weight = class_weight
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.augmenter = augmenter
        self.n_views = n_views
        self.memory_budget = memory_budget
        self.carry_frozen = carry_frozen
        self.checkpoint = checkpoint
        self.precision = precision
        self.random_state = random_state
        self.verbose = verbose

    def _check_parameters(self) -> None:
        super()._check_parameters()
        application(self.backbone)
        if self.pooling not in POOLINGS:
            raise InputError(f"pooling={self.pooling!r} must be one of {POOLINGS}")
        for name in ("dense_units", "head_epochs", "memory_budget", "average_epochs"):
            check_number(name, getattr(self, name), Integral, 0)
        if self.n_views is not None:
            check_number("n_views", self.n_views, Integral, 0)
        if self.layer is not None and not isinstance(self.layer, str):
            raise InputError(f"layer={self.layer!r} must be the name of one layer, or None")
        check_number("head_learning_rate", self.head_learning_rate, Real, 0, open_below=True)
        for name in ("warmup", "weight_decay"):
            check_number(name, getattr(self, name), Real, 0)
        check_number("label_smoothing", self.label_smoothing, Real, 0, 1, open_above=True)
        if self.schedule not in SCHEDULES:
            raise InputError(f"schedule={self.schedule!r} must be one of {SCHEDULES}")
        if self.warmup > self.epochs:
            raise InputError(f"warmup={self.warmup!r} is longer than the {self.epochs} epochs of the training")
        if self.average_epochs and self.early_stopping:
            raise InputError(
                "average_epochs takes the mean of the last epochs and early_stopping the best one; turn one of them off"
            )
        if self.checkpoint is not None and not isinstance(self.random_state, Integral):
            raise InputError(
                f"training can only continue from a checkpoint with the same draws: random_state={self.random_state!r} "
                "must be an integer"
            )
        carries = self.carry_frozen or self.trainable_from == ALL
        if carries and self.weights == "imagenet" and self.backbone.startswith("EfficientNetB"):
            raise InputError(
                f"Keras gives {self.backbone} an additional layer with weights='imagenet', so its weights cannot be "
                "saved with the classifier; give the path of the weights file"
            )

    def _train(self, examples: Examples, validation: Examples | None) -> Any:
        self.weights_id_ = weights_identity(self.backbone, self.weights)
        if hasattr(self, "frozen_weights_"):
            del self.frozen_weights_
        checkpoint = self._checkpoint(examples, validation)
        earlier = None if checkpoint is None else checkpoint.load(with_arrays=False)
        is_done = earlier is not None and earlier.facts["is_done"]
        if not is_done:
            examples = in_memory(examples, self.memory_budget, self.verbose)
            if validation is not None:
                validation = in_memory(validation, self.memory_budget, self.verbose)
        tail, inputs = self._tail(), self._views(examples, validation)
        if earlier is None:
            # The head needs features as in training, where batches are normalised by their own statistics.
            self._estimate_batch_norm(tail, examples.images)
            head = self._trained_head(tail, inputs, examples, validation)
        else:
            self._restore_head(earlier.facts["first_phase"])
            head = self._head(self.feature_mean_.shape)
        network = self._whole(tail, head)
        n_batches = math.ceil(len(examples) / self.batch_size)
        rate = scheduled(self.learning_rate, self.schedule, round(self.warmup * n_batches), self.epochs * n_batches)
        compile_for_training(network, rate, weight_decay=self.weight_decay, label_smoothing=self.label_smoothing)
        parts = self._monitored(examples, validation)
        if not is_done:
            inputs.keep(*(maps for maps, _ in parts.values()))

        def dataset_of(epoch: int) -> Any:
            draw = np.random.default_rng([self._seed, epoch])
            images = inputs.drawn(examples, epoch, draw)
            order = draw.permutation(len(examples))
            return batches(images, examples.target, examples.weight, self.batch_size, order)

        def estimate_batch_norm() -> None:
            self._estimate_batch_norm(network, examples.images)

        def evaluate() -> dict[str, float]:
            estimate_batch_norm()
            return monitored_scores(network, parts, self.batch_size)

        self.history_ = Training(
            epochs=self.epochs,
            n_batches=n_batches,
            dataset_of=dataset_of,
            evaluate=evaluate,
            settle=estimate_batch_norm if self.average_epochs else None,
            patience=self.patience if validation is not None and self.early_stopping else None,
            n_averaged=self.average_epochs,
            checkpoint=checkpoint,
            first_phase=self._head_facts(),
            label=f"Fine-tuning {self.backbone}",
            verbose=self.verbose,
        ).run(network, min(self.head_history_.get("val_loss", [np.inf])))
        if self._learns_all():
            self.frozen_weights_ = []
        elif self.carry_frozen:
            self.frozen_weights_ = self._cut().frozen().get_weights()
        return network

    def _estimate_batch_norm(self, network: Any, images: ImageBatch) -> None:
        """If the whole network is trained, compute its batch normalisation's statistics over the training images."""
        if self._learns_all() and learning_normalisations(network):
            shuffled = images[np.random.default_rng(self._seed).permutation(len(images))]
            estimate_statistics(network, self._inputs(shuffled), self.batch_size)

    def _views(self, examples: Examples, validation: Examples | None) -> _Views:
        augmenter = self._fitted_augmenter(examples.images)
        are_drawn_anew = augmenter is not None and (self.n_views is None or self._learns_all())
        n_views = 0 if augmenter is None or are_drawn_anew else int(self.n_views or 0)
        views = _Views(augmenter, n_views, are_drawn_anew, self._training_inputs, self.memory_budget, self.verbose)
        if not are_drawn_anew and not self._learns_all():
            self._warn_of_memory(len(examples) * (1 + n_views) + len(validation or ()))
        return views

    def _checkpoint(self, examples: Examples, validation: Examples | None) -> Checkpoint | None:
        if self.checkpoint is None:
            return None
        elsewhere = ("augmenter", "carry_frozen", "checkpoint", "memory_budget", "verbose", "weights")
        identity = {
            **{name: _plain(value) for name, value in self.get_params(deep=False).items() if name not in elsewhere},
            "augmenter": None if self.augmenter is None else self.augmenter.get_params(),
            "weights_id": self.weights_id_,
            "precision": self.precision_,
            "classes": self.classes_.tolist(),
            "versions": versions_here(),
        }
        rows = [row for part in (examples, validation) if part is not None
                for row in (*part.images.keys, part.target.tobytes(), part.weight.tobytes())]  # fmt: skip
        return Checkpoint(self.checkpoint, identity, rows)

    def _head_facts(self) -> dict[str, Any]:
        """Return the state of the first phase that a continued training needs, exactly, for JSON."""
        return {
            "head_history": self.head_history_,
            "feature_mean": self.feature_mean_.tolist(),
            "feature_scale": self.feature_scale_.tolist(),
        }

    def _restore_head(self, facts: Mapping[str, Any]) -> None:
        self.head_history_ = facts["head_history"]
        self.feature_mean_ = np.array(facts["feature_mean"], dtype=np.float32)
        self.feature_scale_ = np.array(facts["feature_scale"], dtype=np.float32)

    def _trained_head(self, tail: Any, inputs: _Views, examples: Examples, validation: Examples | None) -> Any:
        """Return a head that standardises the present features and was trained on them for `head_epochs`."""
        if not self.head_epochs:
            examples = examples.take(np.arange(len(examples))[:: math.ceil(len(examples) / _SAMPLED)])
        n_views = inputs.n_views if self.head_epochs else 0
        features = [predict_outputs(tail, inputs.of(examples, view), self.batch_size) for view in range(1 + n_views)]
        self.feature_mean_ = features[0].mean(axis=0)
        spread = features[0].std(axis=0)
        # A feature that hardly varies yet must not be magnified once the layers before it are trained.
        self.feature_scale_ = np.maximum(spread, 0.1 * spread.mean() or 1)
        self.head_history_ = {}
        head = self._head(features[0].shape[1:])
        if self.head_epochs:
            held_out = None if validation is None else predict_outputs(tail, inputs.of(validation), self.batch_size)
            self._train_head(head, np.stack(features), held_out, examples, validation)
        return head

    def _train_head(
        self, head: Any, features: np.ndarray, held_out: np.ndarray | None, examples: Examples,
        validation: Examples | None,
    ) -> None:  # fmt: skip
        """Train only the head, on the features of all views, ``float32 (1 + n_views, n, d)``."""
        rows = np.arange(len(examples))
        parts = {"": (features[0], examples.target)}
        if held_out is not None and validation is not None:
            parts["val_"] = (held_out, validation.target)
        compile_for_training(head, self.head_learning_rate, label_smoothing=self.label_smoothing)

        def dataset_of(epoch: int) -> Any:
            draw = np.random.default_rng([self._seed, epoch])
            views, order = draw.integers(0, len(features), len(rows)), draw.permutation(rows)
            return batches(features[views, rows], examples.target, examples.weight, self.batch_size, order)

        self.head_history_ = Training(
            epochs=self.head_epochs,
            n_batches=math.ceil(len(examples) / self.batch_size),
            dataset_of=dataset_of,
            evaluate=lambda: monitored_scores(head, parts, self.batch_size),
            patience=self.patience if validation is not None and self.early_stopping else None,
            label="Training the head",
            verbose=self.verbose,
        ).run(head)

    def _warn_of_memory(self, n: int) -> None:
        needed = n * 2 * int(np.prod(self._cut().frozen().output_shape[1:]))
        if needed > self.memory_budget:
            log.warning(
                "the frozen output of %d images and views takes %d MB, more than memory_budget=%d bytes: the rest is "
                "computed again in every epoch", n, needed // 1_000_000, self.memory_budget,
            )  # fmt: skip

    def _learns_all(self) -> bool:
        return bool(self.architecture_["trainable_from"] == ALL)

    def _backbone(self) -> Backbone:
        design = SimpleNamespace(**self.architecture_)
        return Backbone(design.backbone, design.weights, self.weights_id_, design.layer, self.precision_)

    def _cut(self) -> Cut:
        carried = getattr(self, "frozen_weights_", None)
        at = self.architecture_["trainable_from"]
        return Cut(self._backbone(), at, self.image_shape_, carried and tuple(carried))

    def _inputs(self, batch: ImageBatch) -> Indexable:
        return batch if self._learns_all() else FrozenMaps(self._cut(), batch, self.batch_size, for_training=False)

    def _training_inputs(self, batch: ImageBatch) -> Indexable:
        return batch if self._learns_all() else FrozenMaps(self._cut(), batch, self.batch_size, for_training=True)

    @keras_settings()
    def networks_in_turn(self) -> list[Any]:
        """Return the frozen part, ``uint8 (n, H, W, 3)`` to maps, and the rest; all in one where nothing is frozen."""
        learnt = super().networks_in_turn()
        return learnt if self._learns_all() else [self._cut().frozen(), *learnt]

    def _build(self) -> Any:
        return self._whole(self._tail(), self._head(self.feature_mean_.shape))

    def _tail(self) -> Any:
        """Return the network from :meth:`_inputs` to one vector of features."""
        keras = import_keras()
        if self._learns_all():
            network = self._all_of_it()
            return compile_for_prediction(
                keras.Model(network.input, pooled(network.output, self.architecture_["pooling"]))
            )
        tail = self._cut().tail()
        maps = keras.Input(tail.input_shape[1:])
        features = pooled(tail(keras.ops.cast(maps, tail.input.dtype)), self.architecture_["pooling"])
        return compile_for_prediction(keras.Model(maps, features))

    def _all_of_it(self) -> Any:
        """Return the backbone from ``uint8 (n, H, W, 3)``, with every layer trainable."""
        backbone = self._backbone()
        if hasattr(self, "frozen_weights_"):  # fitted: `weights_` are set afterwards, so no file is needed
            backbone = backbone.random()
        network = backbone.network(self.image_shape_)
        for layer in network.layers:  # a network cut at `layer` does not pass on its own `trainable`
            layer.trainable = True
        return backbone.preprocessed(network, self.image_shape_)

    def _head(self, shape: tuple[int, ...]) -> Any:
        """Return the network from features to logits."""
        keras = import_keras()
        layers = keras.layers
        kernel, dropout, last = seeds(self._seed, 3)
        features = keras.Input(shape)
        with keras_settings("float32"):  # the head is so small that lower precision would save nothing
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


@dataclass
class _Views:
    """The views of the training images in an epoch: chosen from a few fixed ones, which are kept, or always new."""

    augmenter: ImageAugmenter | None
    n_views: int
    are_drawn_anew: bool
    inputs_of: Callable[[ImageBatch], Indexable]
    memory_budget: int
    verbose: int
    _wanted: set[Hashable] = field(default_factory=set)

    def of(self, examples: Examples, view: int | np.ndarray = 0, *, keep: bool = True) -> Indexable:
        """Return the network's inputs for one view of each image; view 0 is the image itself."""
        images = examples.images if self.augmenter is None else self.augmenter.view(examples.images, view)
        found = self.inputs_of(images)
        if keep:
            self.keep(found)
        return found

    def keep(self, *inputs: Indexable) -> None:
        """Keep the frozen output of images that every epoch needs."""
        for maps in inputs:
            if isinstance(maps, FrozenMaps):
                maps.keep(self.memory_budget, self._wanted, self.verbose)

    def drawn(self, examples: Examples, epoch: int, draw: np.random.Generator) -> Indexable:
        """Return the network's inputs for the views of an epoch."""
        if self.are_drawn_anew:
            return self.of(examples, epoch + 1, keep=False)
        return self.of(examples, draw.integers(0, self.n_views + 1, len(examples)))
