"""The networks of keras.applications by name: weights and their identity, precision, preprocessing."""

from __future__ import annotations

import contextlib
import csv
import difflib
import functools
import hashlib
import io
import os
import sys
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np

from .._io import user_path
from .._keras import import_keras, keras_home, keras_settings
from .._progress import stderr_is_a_terminal
from ..exceptions import InputError, WeightsUnavailableError

RANDOM_SEED = 0
POOLINGS = ("avg", "max", "flatten")
_building = Lock()


class Application(NamedTuple):
    """Facts about a network of keras.applications that are needed without importing Keras."""

    name: str
    #: The module of keras.applications with the network's ``preprocess_input``.
    module: str
    #: The file of ImageNet weights without the top in Keras' cache.
    weights_file: str
    #: MD5 of that file, or SHA-256 if it has 64 digits; empty if Keras publishes none.
    checksum: str


@functools.cache
def applications() -> dict[str, Application]:
    """Return every network of keras.applications, by name."""
    with Path(__file__).with_name("applications.csv").open(newline="") as file:
        return {row["name"]: Application(**row) for row in csv.DictReader(file)}


def application(name: str) -> Application:
    """Return a network by its name, and refuse one that keras.applications does not have."""
    if name not in applications():
        close = difflib.get_close_matches(name, applications(), n=3, cutoff=0.4) or sorted(applications())
        raise InputError(f"backbone={name!r} is not in keras.applications; did you mean {' or '.join(close)}?")
    return applications()[name]


def weights_path(name: str, weights: str | os.PathLike[str]) -> Path | None:
    """Return the checked file of the weights, after Keras downloaded it if need be; None for "random".

    The file is checked here, because Keras deletes a cached file with a wrong checksum before it notices that it is
    offline, and its error about a failed download is not helpful.

    Raises
    ------
    WeightsUnavailableError
        If the file is missing and cannot be downloaded, or is not the one Keras published.
    """
    if weights == "random":
        return None
    if weights != "imagenet":
        if not (file := user_path(weights)).is_file():
            raise WeightsUnavailableError(f"weights={os.fspath(weights)!r} is neither 'imagenet', 'random' nor a file")
        return file
    known = application(name)
    path = keras_home() / "models" / known.weights_file
    if not path.is_file():
        _download(known, path)
    digests = _file_digests(path, _state(path))
    if known.checksum and known.checksum not in digests:
        raise WeightsUnavailableError(
            f"{path} is not the file that Keras published for {name} (checksum {digests[0]}, not {known.checksum}); "
            f"remove it, or give another one with weights= (--weights)"
        )
    return path


def _download(known: Application, path: Path) -> None:
    keras = import_keras()
    # Keras draws its progress bar on stdout, which is for tables and JSON.
    progress = sys.stderr if stderr_is_a_terminal() else io.StringIO()
    try:
        with contextlib.redirect_stdout(progress), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="`input_shape` is undefined")  # only matters to the top
            getattr(keras.applications, known.name)(weights="imagenet", include_top=False)
        path.stat()  # without write access to this folder, Keras downloads to a temporary one
    except Exception as error:  # Keras raises bare Exception when a download fails
        raise WeightsUnavailableError(
            f"the ImageNet weights of {known.name} are not at {path} and could not be downloaded; put "
            f"{known.weights_file} there, or give weights=PATH or weights='random' (--weights PATH, --weights random)"
        ) from error


def weights_identity(name: str, weights: str | os.PathLike[str]) -> str:
    """Return the identity of weights: "random:<seed>", "sha256:<digest of the file>" or "imagenet:sha256:<...>".

    "imagenet" and the path of the same file differ, because Keras builds some networks differently for "imagenet".
    """
    path = weights_path(name, weights)
    if path is None:
        return f"random:{RANDOM_SEED}"
    return f"{'imagenet:' if weights == 'imagenet' else ''}sha256:{_file_digests(path, _state(path))[1]}"


def _state(path: Path) -> tuple[int, int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


@functools.lru_cache(maxsize=8)
def _file_digests(path: Path, state: tuple[int, int, int]) -> tuple[str, str]:
    """Return MD5 and SHA-256 of a file; with `state`, a changed file is not taken from the cache."""
    with path.open("rb") as file:
        md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        file.seek(0)
        return md5, hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Backbone:
    """A frozen network up to a layer; equal backbones compute equal features."""

    #: A network of keras.applications.
    name: str
    #: "imagenet", "random" or a path, and what `weights_identity` says of it.
    weights: str
    identity: str
    #: The last layer, or several layers that are all outputs; None keeps all of the network but its top.
    layer: str | tuple[str, ...] | None
    #: "float32" or "bfloat16".
    precision: str

    def random(self) -> Backbone:
        """Return the same network with random weights, for weights that are set later."""
        return replace(self, weights="random", identity=f"random:{RANDOM_SEED}")

    def build(self, image_shape: tuple[int, int, int]) -> Any:
        """Return the Keras model from ``uint8 (n, H, W, 3)``, preprocessing included, to `layer`'s output."""
        return self.preprocessed(self.network(image_shape), image_shape)

    def network(self, image_shape: tuple[int, int, int]) -> Any:
        """Return the Keras model from preprocessed images to `layer`'s output.

        Raises
        ------
        WeightsUnavailableError
            If the weights are missing, are no longer those of `identity`, or do not fit the network.
        ValueError
            If the network has no layer of that name.
        """
        if weights_identity(self.name, self.weights) != self.identity:
            raise WeightsUnavailableError(
                f"the weights of {self.name} ({self.weights}) are not those used for fitting ({self.identity})"
            )
        keras = import_keras()
        with _building, keras_settings(self.precision):
            network = self._network(keras, image_shape)
        network.trainable = False
        if self.layer is not None:
            names = [layer.name for layer in network.layers]
            wanted = [self.layer] if isinstance(self.layer, str) else self.layer
            for name in wanted:
                if name not in names:
                    raise InputError(f"layer={name!r} is not a layer of {self.name}; choose one of {names}")
            outputs = [network.get_layer(name).output for name in wanted]
            network = keras.Model(network.input, outputs[0] if len(outputs) == 1 else outputs)
        return network

    @keras_settings()
    def preprocessed(self, network: Any, image_shape: tuple[int, int, int]) -> Any:
        """Put this backbone's preprocessing before a network or its first part."""
        keras = import_keras()
        module = getattr(keras.applications, application(self.name).module)
        images = keras.Input(image_shape, dtype="uint8")
        return keras.Model(images, network(module.preprocess_input(keras.ops.cast(images, "float32"))))

    def _network(self, keras: Any, image_shape: tuple[int, int, int]) -> Any:
        path = weights_path(self.name, self.weights)
        # Keras must see "imagenet" rather than a path, because some networks have an additional layer then.
        source = "imagenet" if self.weights == "imagenet" else path and str(path)
        try:
            with warnings.catch_warnings():
                # If the file has no weights for a layer, Keras keeps its random ones and only warns.
                warnings.filterwarnings("error", message="Skipping")
                warnings.filterwarnings("ignore", message="`input_shape` is undefined")  # only matters to the top
                network = getattr(keras.applications, self.name)(
                    weights=source, include_top=False, input_shape=image_shape
                )
        except Exception as error:  # Keras may raise bare Exception
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            if reason.startswith("Input size must be"):
                height, width, _ = image_shape
                raise InputError(f"{self.name} on images of {height} x {width} pixels: {reason}") from error
            if source is None:
                raise
            raise WeightsUnavailableError(
                f"{path} does not hold the weights of {self.name} without its top: {reason}"
            ) from error
        if source is None:
            _draw_weights(network)
        return network


def pooled(maps: Any, pooling: str) -> Any:
    """Return feature maps, a tensor of shape (n, h, w, channels), as one float32 vector per image."""
    ops = import_keras().ops
    maps = ops.cast(maps, "float32")
    if pooling == "flatten":
        return ops.reshape(maps, (-1, int(np.prod(maps.shape[1:]))))
    return (ops.mean if pooling == "avg" else ops.max)(maps, axis=tuple(range(1, len(maps.shape) - 1)))


def _draw_weights(network: Any) -> None:
    """Draw every kernel (He et al., 2015), with the same result for each version and backend of Keras.

    References
    ----------
    He, Zhang, Ren, Sun (2015). Delving deep into rectifiers. ICCV. https://doi.org/10.1109/ICCV.2015.123
    """
    draw = np.random.default_rng(RANDOM_SEED)
    for variable in network.trainable_weights:
        if len(variable.shape) > 1:
            depthwise = len(variable.shape) == 4 and variable.shape[-1] == 1
            fan_in = int(np.prod(variable.shape[:2] if depthwise else variable.shape[:-1]))
            variable.assign(draw.normal(0, np.sqrt(2 / fan_in), size=variable.shape))
