"""A pretrained network cut in two: a frozen part, whose output is kept, and a tail that learns."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any

import numpy as np

from ..backbones import Backbone, import_keras, weights_identity
from ..exceptions import ImageReadError, InputError
from ..images import ImageBatch
from ..progress import progress_bar

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
        """Return a new copy of the rest, with its pretrained weights; batch normalisation stays as it was trained."""
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
            return _cut(self)


@functools.lru_cache(maxsize=2)
def _cut(cut: Cut) -> tuple[Any, Any]:
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
    # XLA compiles convolutions on a CPU to less than half the speed of TensorFlow's own kernels.
    frozen.compile(jit_compile=keras.backend.backend() == "jax")
    return frozen, tail


#: A cut and the content key of an image.
Key = tuple[Cut, bytes]


class _Kept:
    """Frozen outputs by cut and content key, shared by all fits of a process."""

    def __init__(self) -> None:
        self._maps: dict[Key, np.ndarray] = {}
        self._nbytes = 0
        self._lock = Lock()

    def get(self, key: Key) -> np.ndarray | None:
        return self._maps.get(key)

    def put(self, key: Key, maps: np.ndarray, budget: int, wanted: set[Key]) -> None:
        """Keep `maps` if they fit the budget, in place of what is not wanted if need be, the oldest first."""
        with self._lock:
            for old in list(self._maps) if self._nbytes + maps.nbytes > budget else ():
                if old not in wanted:
                    self._nbytes -= self._maps.pop(old).nbytes
                    if self._nbytes + maps.nbytes <= budget:
                        break
            if key not in self._maps and self._nbytes + maps.nbytes <= budget:
                self._maps[key] = maps
                self._nbytes += maps.nbytes


_kept = _Kept()


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
        maps = {i: map_ for i in wanted if (map_ := _kept.get(self._keys[i])) is not None}
        if missing := [i for i in wanted if i not in maps]:
            maps.update(zip(missing, self._compute(np.asarray(self._batch[missing])), strict=True))
        return np.stack([maps[i] for i in rows.tolist()])

    def keep(self, budget: int, wanted: set[Key], verbose: int) -> None:
        """Compute what is not kept yet, and keep what fits into `budget` bytes; what is `wanted` is not given up.

        Raises
        ------
        ImageReadError
            If an image cannot be read.
        """
        wanted.update(self._keys)
        missing = {key: i for i, key in enumerate(self._keys) if _kept.get(key) is None}
        if not missing:
            return
        label, keys = f"Frozen part of {self._cut.backbone.name}", iter(missing)
        with progress_bar(label, len(missing), show=verbose > 0) as advance:
            for chunk in self._batch[np.array(list(missing.values()))].decode_ahead(self._batch_size):
                for image in chunk:
                    if isinstance(image, ImageReadError):
                        raise image
                for map_, key in zip(self._compute(np.array(chunk)), keys, strict=False):
                    _kept.put(key, map_, budget, wanted)
                advance(len(chunk))

    def _compute(self, pixels: np.ndarray) -> np.ndarray:
        k = len(pixels)
        # Every batch has the same shape, the last is filled up: a new shape would be traced anew.
        filled = np.resize(pixels, (min(self._batch_size, 1 << max(k - 1, 0).bit_length()), *pixels.shape[1:]))
        maps = np.asarray(self._cut.frozen().predict_on_batch(filled))[:k]
        with np.errstate(over="ignore"):
            half = maps.astype(np.float16)
        if not np.isfinite(half).all():
            raise InputError(
                f"{self._cut.backbone.name} gives values beyond float16's range before {self._cut.at!r}; "
                "choose another trainable_from"
            )
        return half
