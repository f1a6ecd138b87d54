"""The networks of keras.applications by name: weights and their identity, precision, preprocessing."""

from __future__ import annotations

import contextlib
import csv
import difflib
import functools
import hashlib
import importlib
import io
import json
import logging
import os
import sys
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from threading import Lock, RLock
from typing import Any, NamedTuple

import numpy as np

from .exceptions import InputError, WeightsUnavailableError

RANDOM_SEED = 0
POOLINGS = ("avg", "max", "flatten")
_building = Lock()
_importing = RLock()


class Application(NamedTuple):
    """What must be known of a network of keras.applications without importing Keras."""

    name: str
    #: Module of keras.applications that holds the network's ``preprocess_input``.
    module: str
    #: ImageNet weights without the top, as Keras names the file in its cache.
    weights_file: str
    #: MD5 of that file, or SHA-256 where it has 64 digits; empty where Keras publishes none.
    checksum: str


@functools.cache
def applications() -> dict[str, Application]:
    """Every network of keras.applications, by name."""
    with Path(__file__).with_name("applications.csv").open(newline="") as file:
        return {row["name"]: Application(**row) for row in csv.DictReader(file)}


def application(name: str) -> Application:
    """Look a network up by name.

    Raises
    ------
    ValueError
        If keras.applications has no such network.
    """
    if name not in applications():
        close = difflib.get_close_matches(name, applications(), n=3, cutoff=0.4) or sorted(applications())
        raise InputError(f"backbone={name!r} is not in keras.applications; did you mean {' or '.join(close)}?")
    return applications()[name]


def import_keras() -> Any:
    """Import Keras without the backend's chatter on stderr, which is shown only if the import fails."""
    with _importing:
        if "keras" not in sys.modules:
            _import_quietly()
    return sys.modules["keras"]


def _keras_home() -> Path:
    return Path(os.environ.get("KERAS_HOME") or os.path.expanduser("~/.keras"))  # noqa: PTH111 - Path.home() may raise


def keras_backend() -> str:
    """Return the backend that Keras has, or will have once it is imported."""
    if "keras" in sys.modules:
        return str(sys.modules["keras"].config.backend())
    if chosen := os.environ.get("KERAS_BACKEND"):
        return chosen
    settings = _keras_home() / "keras.json"
    return str(json.loads(settings.read_text()).get("backend", "tensorflow")) if settings.is_file() else "tensorflow"


def _import_quietly() -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    with tempfile.TemporaryFile() as chatter:
        stderr = os.dup(2)
        os.dup2(chatter.fileno(), 2)
        try:
            importlib.import_module("keras")
            # Every fold and candidate is a new network, and TensorFlow takes that for a mistake.
            logging.getLogger("tensorflow").addFilter(lambda record: "retracing" not in record.msg)
        except ImportError:
            chatter.seek(0)
            os.write(stderr, chatter.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def resolve_precision(precision: str) -> str:
    """Resolve "auto": "bfloat16" where the CPU or a GPU computes in it, else "float32".

    Raises
    ------
    ValueError
        If `precision` is not "auto", "float32" or "bfloat16".
    """
    if precision not in ("auto", "float32", "bfloat16"):
        raise InputError(f"precision={precision!r} must be 'auto', 'float32' or 'bfloat16'")
    if precision != "auto":
        return precision
    return "bfloat16" if _cpu_has_bfloat16() or _gpu_is_present() else "float32"


def _cpu_has_bfloat16() -> bool:
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text().split() if cpuinfo.exists() else []
    return "avx512_bf16" in flags or "amx_bf16" in flags


def _gpu_is_present() -> bool:
    # Asking Keras costs seconds, so it is asked only where a driver is installed.
    return Path("/dev/nvidia0").exists() and bool(import_keras().distribution.list_devices("gpu"))


def weights_path(name: str, weights: str | os.PathLike[str]) -> Path | None:
    """Return the file that holds the weights, checked, and downloaded by Keras if it must be; None for "random".

    Keras deletes a cached file of the wrong checksum before it notices that it is offline, and says nothing useful
    when a download fails; so the file is looked at before Keras sees it.

    Raises
    ------
    WeightsUnavailableError
        If the file is missing and cannot be downloaded, or is not the one Keras published.
    """
    if weights == "random":
        return None
    if weights != "imagenet":
        if not Path(weights).is_file():
            raise WeightsUnavailableError(f"weights={os.fspath(weights)!r} is neither 'imagenet', 'random' nor a file")
        return Path(weights)
    known = application(name)
    path = _keras_home() / "models" / known.weights_file
    if not path.is_file():
        _download(known, path)
    digests = _file_digests(path, _state(path))
    if known.checksum and known.checksum not in digests:
        raise WeightsUnavailableError(
            f"{path} is not the file that Keras published for {name} (checksum {digests[0]}, not {known.checksum}); "
            f"remove it, or name another one with weights="
        )
    return path


def _download(known: Application, path: Path) -> None:
    keras = import_keras()
    # Keras draws its progress bar on stdout, where a table or JSON is expected.
    progress = sys.stderr if sys.stderr.isatty() else io.StringIO()
    try:
        with contextlib.redirect_stdout(progress):
            getattr(keras.applications, known.name)(weights="imagenet", include_top=False)
        path.stat()  # Keras downloads to a temporary folder where it may not write to this one
    except Exception as error:  # Keras raises bare Exception when a download fails
        raise WeightsUnavailableError(
            f"the ImageNet weights of {known.name} are not at {path} and could not be downloaded; put "
            f"{known.weights_file} there, or give weights=PATH or weights='random' (--weights PATH, --weights random)"
        ) from error


def weights_identity(name: str, weights: str | os.PathLike[str]) -> str:
    """Name the weights by what they are: "random:<seed>", "sha256:<digest of the file>" or "imagenet:sha256:<...>".

    A published file given by path is told apart from "imagenet": Keras builds some networks differently for that word.

    Raises
    ------
    WeightsUnavailableError
        As :func:`weights_path`.
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
    """MD5 and SHA-256 of a file; `state` makes a changed file a different question."""
    with path.open("rb") as file:
        md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        file.seek(0)
        return md5, hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Backbone:
    """A frozen network up to a layer; equal backbones compute equal features.

    Attributes
    ----------
    name : str
        A network of keras.applications.
    weights : str
        "imagenet", "random" or a path.
    identity : str
        What :func:`weights_identity` says of the weights.
    layer : str or None
        The last layer; None keeps all of the network but its top.
    precision : {"float32", "bfloat16"}
    """

    name: str
    weights: str
    identity: str
    layer: str | None
    precision: str

    def build(self, image_shape: tuple[int, int, int]) -> Any:
        """Return the Keras model from ``uint8 (n, H, W, 3)``, preprocessing included, to `layer`'s output.

        Raises
        ------
        WeightsUnavailableError, ValueError
            As :meth:`network`.
        """
        return self.preprocessed(self.network(image_shape), image_shape)

    def network(self, image_shape: tuple[int, int, int]) -> Any:
        """Return the Keras model from preprocessed images to `layer`'s output.

        Raises
        ------
        WeightsUnavailableError
            If the weights are gone, are no longer those of `identity`, or do not fit the network.
        ValueError
            If the network has no layer of that name.
        """
        if weights_identity(self.name, self.weights) != self.identity:
            raise WeightsUnavailableError(
                f"the weights of {self.name} ({self.weights}) are not those it was fitted with ({self.identity})"
            )
        keras = import_keras()
        with _building, dtype_policy(keras, self.precision):
            network = self._network(keras, image_shape)
        network.trainable = False
        if self.layer is not None:
            names = [layer.name for layer in network.layers]
            if self.layer not in names:
                raise InputError(f"layer={self.layer!r} is not a layer of {self.name}; choose one of {names}")
            network = keras.Model(network.input, network.get_layer(self.layer).output)
        return network

    def preprocessed(self, network: Any, image_shape: tuple[int, int, int]) -> Any:
        """Put this backbone's preprocessing before a network or a part of it."""
        keras = import_keras()
        module = getattr(keras.applications, application(self.name).module)
        images = keras.Input(image_shape, dtype="uint8")
        return keras.Model(images, network(module.preprocess_input(keras.ops.cast(images, "float32"))))

    def _network(self, keras: Any, image_shape: tuple[int, int, int]) -> Any:
        path = weights_path(self.name, self.weights)
        # "imagenet" must reach Keras as that word: for some networks it also decides a layer.
        source = "imagenet" if self.weights == "imagenet" else path and str(path)
        try:
            with warnings.catch_warnings():
                # Keras leaves a layer as it was drawn where the file has nothing for it, and only warns.
                warnings.filterwarnings("error", message="Skipping")
                warnings.filterwarnings("ignore", message="`input_shape` is undefined")  # matters to the top alone
                network = getattr(keras.applications, self.name)(
                    weights=source, include_top=False, input_shape=image_shape
                )
        except Exception as error:  # bare Exception is among what Keras raises
            if source is None:
                raise
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise WeightsUnavailableError(
                f"{path} does not hold the weights of {self.name} without its top: {reason}"
            ) from error
        if source is None:
            _draw_weights(network)
        return network


def pooled(maps: Any, pooling: str) -> Any:
    """Return feature maps as one float32 vector per image.

    Parameters
    ----------
    maps : KerasTensor of shape (n, h, w, channels)
    pooling : {"avg", "max", "flatten"}
    """
    ops = import_keras().ops
    maps = ops.cast(maps, "float32")
    if pooling == "flatten":
        return ops.reshape(maps, (-1, int(np.prod(maps.shape[1:]))))
    return (ops.mean if pooling == "avg" else ops.max)(maps, axis=tuple(range(1, len(maps.shape) - 1)))


def compile_for_prediction(network: Any) -> Any:
    """Compile without optimizer and loss, which drops those of an earlier compilation, and return the network."""
    # XLA compiles VGG16 on a CPU to less than half the speed of TensorFlow's own kernels; JAX has nothing else.
    network.compile(jit_compile=import_keras().backend.backend() == "jax")
    return network


class dtype_policy:  # noqa: N801 - read as a statement: with dtype_policy(...)
    """Build layers in "float32" or "bfloat16"; Keras takes that from a global setting, which is put back afterwards."""

    def __init__(self, keras: Any, precision: str) -> None:
        self._keras = keras
        self._policy = "mixed_bfloat16" if precision == "bfloat16" else "float32"

    def __enter__(self) -> None:
        self._before = self._keras.config.dtype_policy()
        self._keras.config.set_dtype_policy(self._policy)

    def __exit__(self, *exception: object) -> None:
        self._keras.config.set_dtype_policy(self._before)


def _draw_weights(network: Any) -> None:
    """Draw every kernel anew (He et al., 2015), the same on each Keras version and backend.

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
