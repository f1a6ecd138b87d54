"""ONNX Runtime: its late import, and the options that every session here has."""

from __future__ import annotations

import functools
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


def start_session(model: Path | bytes, *, is_limited: bool = False) -> Any:
    """Open an ONNX file, given by path or content, with as many threads as the environment allows a worker.

    With `is_limited`, an operator fails that would take more memory than :func:`memory_limit`.
    """
    runtime = import_onnxruntime()
    options = runtime.SessionOptions()
    options.log_severity_level = 4  # errors are raised anyway
    # joblib and Dask limit the threads of a worker by a variable that ONNX Runtime does not read.
    if (threads := os.environ.get("OMP_NUM_THREADS", "")).isdigit():
        options.intra_op_num_threads = int(threads)
    # Threads that wait by turning in circles would take the processor from those that decode images.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Bytes can also be taken for its own format, which nobody here has looked at.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    if is_limited:
        _limit_memory()
        options.add_session_config_entry("session.use_env_allocators", "1")
    # Else it prints what fails, and tries the same again.
    return runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"], enable_fallback=0)


@functools.cache
def _limit_memory() -> None:
    """Limit the memory of all sessions of this process together that say so."""
    runtime = import_onnxruntime()
    kinds = runtime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, runtime.OrtMemType.DEFAULT
    arena = runtime.OrtArenaCfg({"max_mem": memory_limit()})
    runtime.create_and_register_allocator(runtime.OrtMemoryInfo("Cpu", *kinds), arena)


def memory_limit() -> int:
    """Return half of this machine's memory, in bytes; 8 GiB where that is not known."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (AttributeError, OSError, ValueError):  # Windows has no sysconf
        return 8 * 2**30
