"""Keras: its late and quiet import, its precision on this machine, its networks' inputs."""

from __future__ import annotations

import importlib
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from typing import Any

import numpy as np

from ._settings import Held
from .exceptions import BackendError, InputError

_importing = RLock()
_is_forked_from_keras = False


def _note_fork() -> None:
    """Remember, in a child process, that Keras was loaded before the fork."""
    global _is_forked_from_keras
    _is_forked_from_keras |= "keras" in sys.modules


if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(after_in_child=_note_fork)


def import_keras() -> Any:
    """Import Keras without its backend's messages on stderr, which are shown only if the import fails.

    Raises
    ------
    BackendError
        If Keras cannot be imported with the chosen backend, or would wait forever in this process.
    """
    check_not_forked()
    with _importing:
        if "keras" not in sys.modules:
            _import_quietly()
    return importlib.import_module("keras")  # waits for a thread that is importing it


def check_not_forked() -> None:
    """Refuse to compute in a process that was forked after Keras had been loaded, before a network or lock is taken.

    A fork copies no threads, but the locks that they hold, so TensorFlow, JAX and PyTorch would wait for their threads.

    Raises
    ------
    BackendError
        In such a process.
    """
    if _is_forked_from_keras and keras_backend() != "numpy":
        raise BackendError(
            f"Keras was loaded before this process was forked, and its backend {keras_backend()!r} would wait forever "
            "in it: use processes that start anew, joblib's default backend 'loky' or multiprocessing's 'spawn'"
        )


def keras_home() -> Path:
    """Return the folder of Keras' settings and downloads."""
    if chosen := os.environ.get("KERAS_HOME"):
        return Path(chosen)
    home = os.path.expanduser("~")  # noqa: PTH111 - Path.home() may raise
    return Path("/tmp" if home == "~" else home, ".keras")  # as Keras does for a user without a home


def keras_backend() -> str:
    """Return the backend of Keras, even before it is imported."""
    if (keras := sys.modules.get("keras")) is not None and hasattr(keras, "config"):  # else a thread is importing it
        return str(keras.config.backend())
    if chosen := os.environ.get("KERAS_BACKEND"):
        return chosen
    settings = keras_home() / "keras.json"
    try:
        return str(json.loads(settings.read_text()).get("backend", "tensorflow"))
    except (OSError, ValueError):  # Keras ignores such a file, too
        return "tensorflow"


def _import_quietly() -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # Otherwise float32 is TensorFloat-32 on GPUs, which differs from a CPU's in the fourth digit.
    os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")
    # joblib mistakes a network for a memory leak, ends the worker and may wait for it forever (joblib/joblib#869).
    if (loky := sys.modules.get("joblib.externals.loky.process_executor")) is not None:
        vars(loky)["_USE_PSUTIL"] = False
    # joblib and Dask limit the threads of a worker by a variable that TensorFlow does not read.
    if (threads := os.environ.get("OMP_NUM_THREADS", "")).isdigit():
        os.environ.setdefault("TF_NUM_INTRAOP_THREADS", threads)
    if sys.stderr is None:  # a program without a console, where nothing can be printed
        importlib.import_module("keras")
        return
    sys.stderr.flush()
    with tempfile.TemporaryFile() as messages:
        stderr = os.dup(2)
        os.dup2(messages.fileno(), 2)
        try:
            importlib.import_module("keras")
            # Every fold and candidate is a new network, which TensorFlow warns about as needless retracing.
            logging.getLogger("tensorflow").addFilter(lambda record: "retracing" not in str(record.msg))
        except (ImportError, ValueError) as error:  # an unknown backend is a ValueError
            messages.seek(0)
            os.write(stderr, messages.read())
            raise BackendError(f"Keras does not start with its backend {keras_backend()!r}: {error}") from error
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def resolve_precision(precision: str) -> str:
    """Resolve "auto" to "bfloat16" if the CPU or GPU is faster in it, otherwise to "float32".

    Raises
    ------
    ValueError
        If `precision` is not "auto", "float32" or "bfloat16".
    """
    if precision not in ("auto", "float32", "bfloat16"):
        raise InputError(f"precision={precision!r} must be 'auto', 'float32' or 'bfloat16'")
    if precision != "auto":
        return precision
    has_bfloat16 = _gpu_has_bfloat16() if gpu_is_used() else _cpu_has_bfloat16()
    return "bfloat16" if has_bfloat16 else "float32"


def _cpu_has_bfloat16() -> bool:
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text().split() if cpuinfo.exists() else []
    # Intel's processors with avx512_fp16 have AMX for it. If a virtual machine hides AMX, they use AVX-512, which takes
    # twice as long in bfloat16 as in float32.
    return "amx_bf16" in flags or ("avx512_bf16" in flags and "avx512_fp16" not in flags)


def gpu_is_used() -> bool:
    """Whether Keras computes on an NVIDIA GPU."""
    if not Path("/dev/nvidia0").exists():  # importing Keras takes seconds
        return False
    keras = import_keras()
    if keras.backend.backend() == "torch":  # Keras cannot list its devices
        return bool(keras.ops.zeros(()).device.type == "cuda")
    return any(device.startswith("gpu") for device in keras.distribution.list_devices())


def _gpu_has_bfloat16() -> bool:
    # Needs compute capability 8.0; the T4 of free notebooks has 7.5.
    command = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return False
    return all(float(capability) >= 8 for capability in done.stdout.split())


def compile_for_prediction(network: Any) -> Any:
    """Compile without optimizer and loss, which drops those of an earlier compilation, and return the network."""
    # On a CPU, VGG16 is slower with XLA than with TensorFlow's own kernels; JAX has only XLA.
    network.compile(jit_compile=import_keras().backend.backend() == "jax")
    return network


def filled_up(batch: np.ndarray, batch_size: int) -> np.ndarray:
    """Repeat rows up to a power of two or `batch_size`, because the backend traces a network anew for each shape."""
    n = min(batch_size, 1 << max(len(batch) - 1, 0).bit_length())
    return np.resize(batch, (n, *batch.shape[1:]))


_DEFAULTS = {
    "image_data_format": "channels_last",  # decides which axis a convolution takes for channels
    "floatx": "float32",  # of losses and optimizers
    "epsilon": 1e-7,
    "max_epochs": None,  # these two are for debugging: they cut every training short
    "max_steps_per_epoch": None,
}


def _read(name: str) -> Any:
    # Keras before 3.11 has no limits.
    return getattr(import_keras().config, name, lambda: None)()


def _write(name: str, value: Any) -> None:
    if (setter := getattr(import_keras().config, f"set_{name}", None)) is not None:
        setter(value)


_held = Held(_DEFAULTS, _read, _write)


@contextmanager
def keras_settings(precision: str = "float32") -> Iterator[None]:
    """Compute with Keras' defaults, whatever ``keras.json``, ``keras.config`` and the environment say.

    Layers are built in the given precision, "float32" or "bfloat16". The backend stays the user's.
    """
    check_not_forked()
    with _held:
        config = import_keras().config
        before = config.dtype_policy()  # Keras keeps one for each thread
        config.set_dtype_policy("mixed_bfloat16" if precision == "bfloat16" else "float32")
        try:
            yield
        finally:
            config.set_dtype_policy(before)
