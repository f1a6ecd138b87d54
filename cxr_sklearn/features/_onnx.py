"""Frozen networks run by ONNX Runtime: exported once from Keras, kept on disk, loaded without TensorFlow."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from threading import Lock
from typing import Any

from .. import exceptions
from .._keras import keras_home, resolve_precision
from .._onnxruntime import import_onnxruntime, start_session
from ..exceptions import BackendError, InputError
from ._backbones import Backbone

#: Part of the names of kept files and of the recipe of features: raise it if exported networks would differ.
EXPORT = 1
_PREFIX = "cxr_sklearn-"
_exporting = Lock()


def resolve_engine(engine: str, precision: str) -> tuple[str, str]:
    """Return the engine and precision that a FrozenEmbedder computes with, "auto" resolved.

    Raises
    ------
    ValueError
        If either is unknown, or the engine does not have the precision.
    """
    if engine not in ("auto", "keras", "onnx"):
        raise InputError(f"engine={engine!r} must be 'auto', 'keras' or 'onnx'")
    if precision == "int8":
        if engine == "keras":
            raise InputError("engine='keras' does not have precision='int8'; leave engine at 'auto', or choose 'onnx'")
        return "onnx", "int8"
    if engine != "onnx":
        if precision not in ("auto", "float32", "bfloat16"):
            raise InputError(f"precision={precision!r} must be 'auto', 'float32', 'bfloat16' or 'int8'")
        return "keras", resolve_precision(precision)
    if precision not in ("auto", "float32"):
        raise InputError(f"engine='onnx' has precision='float32' and 'int8', not {precision!r}")
    return "onnx", "float32"


def load_session(backbone: Backbone, pooling: str, image_shape: tuple[int, int, int], precision: str) -> Any:
    """Return ONNX Runtime's session from ``images``, ``uint8 (n, H, W, 3)``, to ``features``, ``float32 (n, d)``.

    All embedders of a process share it. The network is exported first if that was never done on this machine.

    Raises
    ------
    BackendError
        If ONNX Runtime is not installed, or what only the export needs.
    InputError
        If the network cannot be exported or quantised.
    WeightsUnavailableError
        If the weights are not those of `backbone`.
    """
    # A process that was forked has none of the threads of its parent's session.
    return _load_session(backbone, pooling, image_shape, precision, os.getpid())


@functools.lru_cache(maxsize=2)
def _load_session(
    backbone: Backbone, pooling: str, image_shape: tuple[int, int, int], precision: str, process: int
) -> Any:
    path = network_file(backbone, pooling, image_shape, precision)
    return start_session(path)


def network_file(backbone: Backbone, pooling: str, image_shape: tuple[int, int, int], precision: str) -> Path:
    """Return the file of an exported network in Keras' folder of weights, and write it if it is not there yet.

    It is called by its recipe and by its own SHA-256, so a damaged file is not used, but written again.

    Raises
    ------
    OSError
        If it cannot be kept there.
    """
    recipe = {**asdict(backbone), "weights": "", "pooling": pooling, "image_shape": image_shape, "export": EXPORT}
    key = hashlib.sha256(json.dumps(recipe | {"precision": precision}, sort_keys=True).encode()).hexdigest()[:16]
    folder, stem = keras_home() / "models", f"{_PREFIX}{backbone.name}-{precision}-{key}"
    with _exporting:
        try:
            for path in sorted(folder.glob(f"{stem}-*.onnx")):
                if path.stem.rpartition("-")[2] == _digest(path):
                    return path
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=folder) as drafts:
                draft = Path(drafts, "network.onnx")
                _export(backbone, pooling, image_shape, precision, draft)
                return draft.replace(folder / f"{stem}-{_digest(draft)}.onnx")
        except exceptions.CXRError:
            raise
        except OSError as error:
            raise OSError(
                f"{backbone.name} cannot be kept as an ONNX file in {folder} ({error.strerror or error}); make room "
                "there, or set KERAS_HOME to another folder, with the weights in its subfolder models"
            ) from error


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _export(backbone: Backbone, pooling: str, image_shape: tuple[int, int, int], precision: str, path: Path) -> None:
    import_onnxruntime()  # its message is better than that of a program that fails
    asked = {"backbone": asdict(backbone), "pooling": pooling, "image_shape": image_shape, "precision": precision}
    package = str(Path(__file__).parents[2])
    environment = {
        **os.environ,
        "KERAS_BACKEND": "tensorflow",
        "CUDA_VISIBLE_DEVICES": "",  # where something may be computing already
        "PYTHONPATH": os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")])),
    }
    done = subprocess.run(
        [sys.executable, "-m", f"{__package__}._onnx_export"],
        input=json.dumps(asked | {"path": str(path)}),
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    if done.returncode == 0:
        return
    try:
        failure = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):  # it died
        last = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
        raise BackendError(f"{backbone.name} could not be exported to ONNX: {last}") from None
    raise getattr(exceptions, failure["error"], OSError)(failure["message"])
