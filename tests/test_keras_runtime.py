import os
import sys

import pytest
from joblib import Parallel, delayed

from cxr_sklearn import keras_runtime
from cxr_sklearn.keras_runtime import import_keras, keras_backend, resolve_precision


def test_precision(monkeypatch):
    assert resolve_precision("float32") == "float32"
    monkeypatch.setattr(keras_runtime, "_gpu_is_present", lambda: False)
    monkeypatch.setattr(keras_runtime, "_cpu_has_bfloat16", lambda: True)
    assert resolve_precision("auto") == "bfloat16"
    monkeypatch.setattr(keras_runtime, "_cpu_has_bfloat16", lambda: False)
    assert resolve_precision("auto") == "float32"
    with pytest.raises(ValueError, match="precision='half'"):
        resolve_precision("half")


@pytest.mark.parametrize(
    ("flags", "is_fast"),
    [
        ("avx2 avx512f", False),
        ("avx512f avx512_bf16", True),
        ("avx512_bf16 avx512_fp16 amx_bf16", True),
        ("avx512_bf16 avx512_fp16", False),  # AMX is there, and hidden
    ],
)
def test_which_processors_are_faster_in_bfloat16(tmp_path, monkeypatch, flags, is_fast):
    (tmp_path / "cpuinfo").write_text(f"model name : X\nflags : fpu {flags} sse\n")
    monkeypatch.setattr(keras_runtime, "Path", lambda path: tmp_path / "cpuinfo")
    assert keras_runtime._cpu_has_bfloat16() is is_fast


def test_the_backend_is_known_before_keras_is_imported(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "keras", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    assert keras_backend() == "tensorflow"
    (tmp_path / "keras.json").write_text('{"backend": "torch"}')
    assert keras_backend() == "torch"
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    assert keras_backend() == "jax"


def settings_of_a_worker():
    import_keras()
    loky = sys.modules["joblib.externals.loky.process_executor"]
    return os.environ["OMP_NUM_THREADS"], os.environ["TF_NUM_INTRAOP_THREADS"], loky._USE_PSUTIL


@pytest.mark.keras
def test_a_worker_uses_its_share_of_the_cores_and_is_not_taken_for_leaking():
    (limit, threads, is_watched), *_ = Parallel(n_jobs=2)(delayed(settings_of_a_worker)() for _ in range(2))
    assert threads == limit == str(max((os.cpu_count() or 1) // 2, 1))
    assert not is_watched
