"""ONNX Runtime: its late import, and the options that every session here has."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from .exceptions import BackendError


def import_onnxruntime() -> Any:
    """Import ONNX Runtime.

    Raises
    ------
    BackendError
        If it is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendError(
            "engine='onnx', precision='int8' and .onnx models need ONNX Runtime; run pip install 'cxr-sklearn[onnx]'"
        ) from error
    return onnxruntime


def start_session(model: Path | bytes) -> Any:
    """Open an ONNX file, given by path or content, with as many threads as the environment allows a worker."""
    runtime = import_onnxruntime()
    options = runtime.SessionOptions()
    options.log_severity_level = 4  # errors are raised anyway
    # joblib and Dask limit the threads of a worker by a variable that ONNX Runtime does not read.
    if (threads := os.environ.get("OMP_NUM_THREADS", "")).isdigit():
        options.intra_op_num_threads = int(threads)
    # Threads that wait by turning in circles would take the processor from those that decode images.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Else it prints what fails, and tries the same again.
    return runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"], enable_fallback=0)
