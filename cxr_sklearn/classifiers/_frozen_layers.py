"""A pretrained network cut in a frozen and a trained part; the output of the frozen part is kept in memory."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Hashable
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import numpy as np

from .._keras import compile_for_prediction, filled_up, import_keras, keras_settings
from .._progress import progress_bar
from ..exceptions import ImageReadError, InputError
from ..features._backbones import Backbone
from ..images.batch import ImageBatch


class KeptMaps(dict[Hashable, np.ndarray]):
    """Arrays by key, within a budget of bytes.

    ``cachetools.LRUCache`` does not fit: its size is fixed, it cannot keep the arrays of the fit that is running, and
    an epoch that needs more than its size would evict each array shortly before it is needed again.
    """

    nbytes = 0

    def put(self, key: Hashable, maps: np.ndarray) -> None:
        """Keep an array, unless there is one already."""
        if self.setdefault(key, maps) is maps:
            self.nbytes += maps.nbytes

    def make_room(self, nbytes: int, budget: int, wanted: set[Hashable]) -> bool:
        """Drop the oldest arrays that are not wanted until `nbytes` more fit the budget; return whether they do."""
        for key in [key for key in self if key not in wanted]:
            if self.nbytes + nbytes <= budget:
                break
            self.nbytes -= self.pop(key).nbytes
        return self.nbytes + nbytes <= budget


#: Shared by all classifiers of this process, so that folds and candidates reuse each other's maps.
KEPT = KeptMaps()
_keeping = Lock()
_cutting = Lock()


@dataclass(frozen=True)
class Cut:
    """The place where a network is cut; equal cuts have equal frozen parts."""

    backbone: Backbone
    #: The first layer to train.
    at: str
    image_shape: tuple[int, int, int]
    #: Weights of the frozen part; None takes those of the backbone.
    carried: tuple[np.ndarray, ...] | None = field(default=None, compare=False)

    def frozen(self) -> Any:
        """Return the Keras model from ``uint8 (n, H, W, 3)`` to the input of layer `at`, shared within the process."""
        return self._parts()[0]

    def tail(self) -> Any:
        """Return a new copy of the rest, in which batch normalisation is not trained.

        It has its pretrained weights, or arbitrary ones if those of the frozen part are carried.
        """
        keras = import_keras()
        original = self._parts()[1]
        tail = keras.models.clone_model(original)
        tail.set_weights(original.get_weights())
        for layer in tail.layers:
            # Its statistics come from a million images; a few hundred would only make them worse.
            layer.trainable = not isinstance(layer, keras.layers.BatchNormalization)
        return tail

    def _parts(self) -> tuple[Any, Any]:
        with keras_settings(), _cutting:  # in this order: in a forked process, the lock may be taken for ever
            return _cut(self, self.carried is None)


@functools.lru_cache(maxsize=2)
def _cut(cut: Cut, pretrained_tail: bool) -> tuple[Any, Any]:
    keras = import_keras()
    backbone = cut.backbone
    if cut.carried is not None:  # the weights are set below, so no file is needed
        backbone = backbone.random()
    network = backbone.network(cut.image_shape)
    names = [layer.name for layer in network.layers[1:]]
    if cut.at not in names:
        raise InputError(f"trainable_from={cut.at!r} is not a layer of {cut.backbone.name}; choose one of {names}")
    entering = network.get_layer(cut.at).input
    try:
        tail = keras.Model(entering, network.output)
    except ValueError as error:
        raise InputError(
            f"trainable_from={cut.at!r}: {cut.backbone.name} cannot be cut there: a connection bypasses the layer; "
            "choose the first layer of a block"
        ) from error
    frozen = backbone.preprocessed(keras.Model(network.input, entering), cut.image_shape)
    if cut.carried is not None:
        frozen.set_weights(cut.carried)
    return compile_for_prediction(frozen), tail


#: A cut and the content key of an image.
Key = tuple[Cut, bytes]


class FrozenMaps:
    """The output of a network's frozen part for images, ``(n, h, w, channels)``, computed when indexed.

    For training it is float16, of which twice as much can be kept. Predictions take it in float32, computed each time:
    they must not depend on what is kept, nor on whether a processor's sums end up just above or below the middle of two
    float16 numbers.
    """

    def __init__(self, cut: Cut, batch: ImageBatch, batch_size: int, *, for_training: bool) -> None:
        self._cut, self._batch, self._batch_size, self._for_training = cut, batch, batch_size, for_training
        self._keys: list[Key] = [(cut, key) for key in batch.keys]

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        if not self._for_training:
            return self._compute(np.asarray(self._batch[rows])).astype(np.float32)
        wanted = dict.fromkeys(rows.tolist())
        maps = {i: map_ for i in wanted if (map_ := KEPT.get(self._keys[i])) is not None}
        if missing := [i for i in wanted if i not in maps]:
            maps.update(zip(missing, self._rounded(np.asarray(self._batch[missing])), strict=True))
        return np.stack([maps[i] for i in rows.tolist()])

    def keep(self, budget: int, wanted: set[Hashable], verbose: int) -> None:
        """Compute and keep the missing maps as far as `budget` bytes allow, without dropping any that are `wanted`."""
        wanted.update(self._keys)
        missing = {key: i for i, key in enumerate(self._keys) if key not in KEPT}
        if not missing:
            return
        nbytes = 2 * int(np.prod(self._cut.frozen().output_shape[1:]))
        keys = iter(missing)
        with progress_bar(f"Frozen part of {self._cut.backbone.name}", len(missing), show=verbose > 0) as advance:
            for chunk in self._batch[np.array(list(missing.values()))].decode_ahead(self._batch_size):
                for image in chunk:
                    if isinstance(image, ImageReadError):
                        raise image
                with _keeping:
                    if not KEPT.make_room(nbytes * len(chunk), budget, wanted):
                        break
                    computed = self._rounded(np.array(chunk))
                    for key, maps in zip(itertools.islice(keys, len(chunk)), computed, strict=True):
                        KEPT.put(key, maps)
                advance(len(chunk))

    def _compute(self, pixels: np.ndarray) -> np.ndarray:
        return np.asarray(self._cut.frozen().predict_on_batch(filled_up(pixels, self._batch_size)))[: len(pixels)]

    def _rounded(self, pixels: np.ndarray) -> np.ndarray:
        maps = self._compute(pixels)
        with np.errstate(over="ignore"):
            half = maps.astype(np.float16)
        if not np.isfinite(half).all():
            raise InputError(
                f"{self._cut.backbone.name} has values beyond the range of float16 before {self._cut.at!r}; "
                "choose another trainable_from"
            )
        return half
