"""A pretrained network cut where it begins to learn; the outputs of its frozen part are kept in memory."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any

import numpy as np

from .._keras import compile_for_prediction, import_keras
from .._progress import progress_bar
from ..exceptions import ImageReadError, InputError
from ..features._backbones import Backbone, weights_identity
from ..images.batch import ImageBatch
from ._training import filled_up


class KeptMaps:
    """Arrays by key, as many as a budget allows."""

    def __init__(self) -> None:
        self._maps: dict[Hashable, np.ndarray] = {}
        self._lock = Lock()
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._maps)

    def get(self, key: Hashable) -> np.ndarray | None:
        """Return what is kept, or None."""
        return self._maps.get(key)

    def make_room(self, nbytes: int, budget: int, wanted: set[Hashable]) -> bool:
        """Drop the oldest arrays that are not wanted until `nbytes` more fit the budget; return whether they do."""
        with self._lock:
            for key in list(self._maps) if self.nbytes + nbytes > budget else ():
                if key not in wanted:
                    self.nbytes -= self._maps.pop(key).nbytes
                    if self.nbytes + nbytes <= budget:
                        break
            return self.nbytes + nbytes <= budget

    def put(self, key: Hashable, maps: np.ndarray) -> None:
        """Keep an array."""
        with self._lock:
            if key not in self._maps:
                self._maps[key] = maps
                self.nbytes += maps.nbytes


#: Shared by all classifiers of this process, so that folds and candidates find what others have computed.
KEPT = KeptMaps()
_cutting = Lock()


@dataclass(frozen=True)
class Cut:
    """Where a network is cut; equal cuts have equal frozen parts.

    Attributes
    ----------
    backbone : Backbone
    at : str
        The first layer that learns.
    image_shape : tuple of int
    carried : tuple of ndarray or None
        Weights of the frozen part; None takes those of the backbone.
    """

    backbone: Backbone
    at: str
    image_shape: tuple[int, int, int]
    carried: tuple[np.ndarray, ...] | None = field(default=None, compare=False)

    def frozen(self) -> Any:
        """Return the Keras model from ``uint8 (n, H, W, 3)`` to what enters layer `at`, shared within the process."""
        return self._parts()[0]

    def tail(self) -> Any:
        """Return a new copy of the rest, which keeps its batch normalisation as it is.

        It has its pretrained weights, or any where those of the frozen part are carried.
        """
        keras = import_keras()
        original = self._parts()[1]
        tail = keras.models.clone_model(original)
        tail.set_weights(original.get_weights())
        for layer in tail.layers:
            # A few hundred images would ruin statistics that took a million.
            layer.trainable = not isinstance(layer, keras.layers.BatchNormalization)
        return tail

    def _parts(self) -> tuple[Any, Any]:
        with _cutting:
            return _cut(self, self.carried is None)


@functools.lru_cache(maxsize=2)
def _cut(cut: Cut, pretrained_tail: bool) -> tuple[Any, Any]:
    keras = import_keras()
    backbone = cut.backbone
    if cut.carried is not None:  # any weights do for now
        backbone = replace(backbone, weights="random", identity=weights_identity(backbone.name, "random"))
    network = backbone.network(cut.image_shape)
    names = [layer.name for layer in network.layers[1:]]
    if cut.at not in names:
        raise InputError(f"trainable_from={cut.at!r} is not a layer of {cut.backbone.name}; choose one of {names}")
    entering = network.get_layer(cut.at).input
    try:
        tail = keras.Model(entering, network.output)
    except ValueError as error:
        raise InputError(
            f"trainable_from={cut.at!r}: {cut.backbone.name} cannot be cut there, a connection runs around the layer; "
            "choose the first layer of a block"
        ) from error
    frozen = backbone.preprocessed(keras.Model(network.input, entering), cut.image_shape)
    if cut.carried is not None:
        frozen.set_weights(cut.carried)
    return compile_for_prediction(frozen), tail


#: A cut and the content key of an image.
Key = tuple[Cut, bytes]


class FrozenMaps:
    """What the frozen part of a network makes of images, ``float16 (n, h, w, channels)``, to be indexed.

    Parameters
    ----------
    cut : Cut
    batch : ImageBatch of n images
    batch_size : int
        Images per call of the network.
    """

    def __init__(self, cut: Cut, batch: ImageBatch, batch_size: int) -> None:
        self._cut, self._batch, self._batch_size = cut, batch, batch_size
        self._keys: list[Key] = [(cut, key) for key in batch.keys]

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        wanted = dict.fromkeys(rows.tolist())
        maps = {i: map_ for i in wanted if (map_ := KEPT.get(self._keys[i])) is not None}
        if missing := [i for i in wanted if i not in maps]:
            maps.update(zip(missing, self._compute(np.asarray(self._batch[missing])), strict=True))
        return np.stack([maps[i] for i in rows.tolist()])

    def keep(self, budget: int, wanted: set[Hashable], verbose: int) -> None:
        """Compute what is not kept yet, as far as it fits `budget` bytes; what is `wanted` is not given up for it.

        Raises
        ------
        ImageReadError
            If an image cannot be read.
        """
        wanted.update(self._keys)
        missing = {key: i for i, key in enumerate(self._keys) if KEPT.get(key) is None}
        if not missing:
            return
        nbytes = 2 * int(np.prod(self._cut.frozen().output_shape[1:]))
        keys = iter(missing)
        with progress_bar(f"Frozen part of {self._cut.backbone.name}", len(missing), show=verbose > 0) as advance:
            for chunk in self._batch[np.array(list(missing.values()))].decode_ahead(self._batch_size):
                for image in chunk:
                    if isinstance(image, ImageReadError):
                        raise image
                if not KEPT.make_room(nbytes * len(chunk), budget, wanted):
                    break
                for key, map_ in zip(itertools.islice(keys, len(chunk)), self._compute(np.array(chunk)), strict=True):
                    KEPT.put(key, map_)
                advance(len(chunk))

    def _compute(self, pixels: np.ndarray) -> np.ndarray:
        maps = np.asarray(self._cut.frozen().predict_on_batch(filled_up(pixels, self._batch_size)))[: len(pixels)]
        with np.errstate(over="ignore"):
            half = maps.astype(np.float16)
        if not np.isfinite(half).all():
            raise InputError(
                f"{self._cut.backbone.name} gives values beyond float16's range before {self._cut.at!r}; "
                "choose another trainable_from"
            )
        return half
