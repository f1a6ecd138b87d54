"""Keras: imported late and quietly, and the precision it computes in on this machine."""

from __future__ import annotations

import importlib
import json
import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from threading import RLock
from typing import Any

from .exceptions import BackendError, InputError

_importing = RLock()


def import_keras() -> Any:
    """Import Keras without the backend's chatter on stderr, which is shown only if the import fails.

    Raises
    ------
    BackendError
        If Keras cannot be imported on the backend that is chosen.
    """
    with _importing:
        if "keras" not in sys.modules:
            _import_quietly()
    return importlib.import_module("keras")  # waits for a thread that is importing it


def keras_home() -> Path:
    """Return the folder of Keras' settings and downloads."""
    return Path(os.environ.get("KERAS_HOME") or os.path.expanduser("~/.keras"))  # noqa: PTH111 - Path.home() may raise


def keras_backend() -> str:
    """Return the backend that Keras has, or will have once it is imported."""
    if "keras" in sys.modules:
        return str(import_keras().config.backend())
    if chosen := os.environ.get("KERAS_BACKEND"):
        return chosen
    settings = keras_home() / "keras.json"
    try:
        return str(json.loads(settings.read_text()).get("backend", "tensorflow"))
    except (OSError, ValueError):  # Keras makes nothing of such a file either
        return "tensorflow"


def _import_quietly() -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # On GPUs, float32 is TensorFloat-32 otherwise, which differs from a CPU's in the fourth digit.
    os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")
    # joblib takes a network for a leak, ends the worker, and may then wait for it for ever (joblib/joblib#869).
    if (loky := sys.modules.get("joblib.externals.loky.process_executor")) is not None:
        vars(loky)["_USE_PSUTIL"] = False
    # Where joblib or Dask limits the threads of a worker, TensorFlow has to be told in a word of its own.
    if (threads := os.environ.get("OMP_NUM_THREADS", "")).isdigit():
        os.environ.setdefault("TF_NUM_INTRAOP_THREADS", threads)
    sys.stderr.flush()
    with tempfile.TemporaryFile() as chatter:
        stderr = os.dup(2)
        os.dup2(chatter.fileno(), 2)
        try:
            importlib.import_module("keras")
            # Every fold and candidate is a new network, and TensorFlow takes that for a mistake.
            logging.getLogger("tensorflow").addFilter(lambda record: "retracing" not in str(record.msg))
        except (ImportError, ValueError) as error:  # Keras says ValueError to a backend that it does not know
            chatter.seek(0)
            os.write(stderr, chatter.read())
            raise BackendError(f"Keras does not start on its backend {keras_backend()!r}: {error}") from error
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def resolve_precision(precision: str) -> str:
    """Resolve "auto": "bfloat16" where the CPU or a GPU is faster in it, else "float32".

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
    # Intel's processors with avx512_fp16 have AMX for it; where a virtual machine hides that, what AVX-512 does in
    # bfloat16 takes them twice as long as in float32.
    return "amx_bf16" in flags or ("avx512_bf16" in flags and "avx512_fp16" not in flags)


def gpu_is_used() -> bool:
    """Whether Keras computes on an NVIDIA GPU."""
    if not Path("/dev/nvidia0").exists():  # asking Keras costs seconds
        return False
    keras = import_keras()
    if keras.backend.backend() == "torch":  # of which Keras lists no devices
        return bool(keras.ops.zeros(()).device.type == "cuda")
    return any(device.startswith("gpu") for device in keras.distribution.list_devices())


def _gpu_has_bfloat16() -> bool:
    # Units for it came with compute capability 8.0; the T4 of many a free notebook has 7.5.
    command = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return False
    return all(float(capability) >= 8 for capability in done.stdout.split())


def compile_for_prediction(network: Any) -> Any:
    """Compile without optimizer and loss, which drops those of an earlier compilation, and return the network."""
    # On a CPU, XLA makes VGG16 slower than TensorFlow's own kernels do; JAX has nothing else.
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
