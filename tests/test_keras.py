import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
from joblib import Parallel, delayed

from cxr_sklearn import _keras as keras_runtime
from cxr_sklearn._keras import import_keras, keras_backend, keras_home, resolve_precision


@pytest.mark.parametrize("has_bfloat16", [True, False])
@pytest.mark.parametrize("gpu_is_used", [True, False])
def test_precision(monkeypatch, gpu_is_used, has_bfloat16):
    assert resolve_precision("float32") == "float32"
    monkeypatch.setattr(keras_runtime, "gpu_is_used", lambda: gpu_is_used)
    used, other = ("_gpu_has_bfloat16", "_cpu_has_bfloat16")[:: 1 if gpu_is_used else -1]
    monkeypatch.setattr(keras_runtime, used, lambda: has_bfloat16)
    monkeypatch.setattr(keras_runtime, other, lambda: not has_bfloat16)
    assert resolve_precision("auto") == ("bfloat16" if has_bfloat16 else "float32")
    with pytest.raises(ValueError, match="precision='half'"):
        resolve_precision("half")


@pytest.mark.parametrize(
    ("flags", "is_fast"),
    [
        ("avx2 avx512f", False),
        ("avx512f avx512_bf16", True),
        ("avx512_bf16 avx512_fp16 amx_bf16", True),
        ("avx512_bf16 avx512_fp16", False),  # AMX exists but is hidden
    ],
)
def test_which_processors_are_faster_in_bfloat16(tmp_path, monkeypatch, flags, is_fast):
    (tmp_path / "cpuinfo").write_text(f"model name : X\nflags : fpu {flags} sse\n")
    monkeypatch.setattr(keras_runtime, "Path", lambda path: tmp_path / "cpuinfo")
    assert keras_runtime._cpu_has_bfloat16() is is_fast


@pytest.mark.parametrize(
    ("script", "has_units"),
    [("echo 9.0", True), ("echo 8.0; echo 7.5", False), ("exit 9", False), (None, False)],
)
def test_which_gpus_have_bfloat16(tmp_path, monkeypatch, script, has_units):
    if script is not None:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert keras_runtime._gpu_has_bfloat16() is has_units


@pytest.mark.keras
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_a_gpu_that_keras_does_not_see_is_not_used(backend):
    if not find_spec(backend):
        pytest.skip(f"{backend} is not installed")
    code = (
        "from pathlib import Path; from cxr_sklearn import _keras as keras_runtime; "
        "keras_runtime.Path = lambda path: Path('.'); "  # a driver is installed
        "print(keras_runtime.gpu_is_used())"
    )
    environment = {**os.environ, "KERAS_BACKEND": backend, "JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("backend", "device", "is_used"),
    [("torch", "cuda", True), ("torch", "cpu", False), ("jax", "gpu:0", True), ("tensorflow", "cpu:0", False)],
)
def test_what_keras_says_of_its_devices(tmp_path, monkeypatch, backend, device, is_used):
    """On PyTorch, Keras has no list of devices, and asking for one is an error."""
    keras = SimpleNamespace(
        backend=SimpleNamespace(backend=lambda: backend),
        ops=SimpleNamespace(zeros=lambda shape: SimpleNamespace(device=SimpleNamespace(type=device))),
        distribution=None if backend == "torch" else SimpleNamespace(list_devices=lambda: [device]),
    )
    monkeypatch.setattr(keras_runtime, "import_keras", lambda: keras)
    monkeypatch.setattr(keras_runtime, "Path", lambda path: tmp_path / "absent")
    assert keras_runtime.gpu_is_used() is False  # without a driver, Keras is not asked
    monkeypatch.setattr(keras_runtime, "Path", lambda path: tmp_path)
    assert keras_runtime.gpu_is_used() is is_used


def test_the_backend_is_known_before_keras_is_imported(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "keras", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    assert keras_backend() == "tensorflow"
    (tmp_path / "keras.json").write_text('{"backend": "torch"}')
    assert keras_backend() == "torch"
    (tmp_path / "keras.json").write_text("{")
    assert keras_backend() == "tensorflow"
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    assert keras_backend() == "jax"


def settings_of_a_worker():
    import_keras()
    loky = sys.modules["joblib.externals.loky.process_executor"]
    assert os.environ["NVIDIA_TF32_OVERRIDE"] == "0"
    return os.environ["OMP_NUM_THREADS"], os.environ["TF_NUM_INTRAOP_THREADS"], loky._USE_PSUTIL


@pytest.mark.keras
def test_a_worker_uses_its_share_of_the_cores_and_is_not_taken_for_leaking():
    (limit, threads, is_watched), *_ = Parallel(n_jobs=2)(delayed(settings_of_a_worker)() for _ in range(2))
    assert threads == limit == str(max((os.cpu_count() or 1) // 2, 1))
    assert not is_watched


@pytest.mark.keras
@pytest.mark.parametrize("backend", ["nonsense", "torch"])
def test_a_backend_that_is_not_there_is_one_line(backend, tmp_path):
    if backend == "torch" and find_spec("torch"):
        pytest.skip("PyTorch is installed")
    code = (
        "from cxr_sklearn.exceptions import CXRError; from cxr_sklearn._keras import import_keras\n"
        "try:\n    import_keras()\nexcept CXRError as error:\n    print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "KERAS_BACKEND": backend}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert done.stdout.startswith(f"Keras does not start with its backend '{backend}': ")


def test_a_user_without_a_home_shares_the_temporary_folder(monkeypatch):
    """As Keras has it; a folder called ~ would be made in the working folder."""
    monkeypatch.delenv("KERAS_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", str)
    assert keras_home() == Path("/tmp/.keras")


_FORKS = """
import multiprocessing, numpy as np
from joblib import Parallel, delayed, parallel_backend
from sklearn.base import clone
from cxr_sklearn import FineTunedClassifier, FrozenEmbedder, ScratchCNNClassifier, ShortcutFeatures
X, y = np.random.default_rng(0).integers(0, 256, (12, 32, 32), dtype=np.uint8), [0, 1] * 6
embedder = FrozenEmbedder("MobileNet", weights="random", store=None, precision="float32")
cnn = ScratchCNNClassifier((2,), epochs=1, early_stopping=False, batch_norm_statistics="moving", precision="float32")
tuned = FineTunedClassifier("MobileNet", weights="random", trainable_from="conv_pw_13", epochs=1, head_epochs=1,
                            early_stopping=False, precision="float32")
embedder.fit_transform(X), cnn.fit(X, y).predict(X)
work = {"transform": lambda: embedder.transform(X), "predict": lambda: cnn.predict(X),
        "fit": lambda: clone(cnn).fit(X, y), "tune": lambda: tuned.fit(X, y)}
def tell(name):
    try: work[name]()
    except Exception as error: print(name, type(error).__name__, error, flush=True)
for name in work:
    child = multiprocessing.get_context("fork").Process(target=tell, args=(name,))
    child.start(); child.join(60); child.kill()
with parallel_backend("multiprocessing", n_jobs=2):
    try: Parallel()(delayed(cnn.predict)(X) for _ in range(2))
    except Exception as error: print("joblib", type(error).__name__, error, flush=True)
    print("measured", Parallel()(delayed(ShortcutFeatures(store=None).transform)(X) for _ in range(2))[0].shape)
"""


@pytest.mark.keras
@pytest.mark.slow
def test_a_fork_of_a_process_with_keras_is_told_so_instead_of_hanging():
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", _FORKS], capture_output=True, text=True, timeout=500)
    said = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert said.pop("measured") == "(12, 5)"  # what needs no network goes on
    assert list(said) == ["transform", "predict", "fit", "tune", "joblib"], done.stderr
    for line in said.values():
        assert line.startswith("BackendError Keras was loaded before this process was forked, and its backend ")
        assert "'loky'" in line


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # of Python 3.12, where threads run
@pytest.mark.parametrize(("backend", "hangs"), [("tensorflow", True), ("jax", True), ("torch", True), ("numpy", False)])
def test_forks_of_every_backend(monkeypatch, backend, hangs):
    monkeypatch.setitem(sys.modules, "keras", SimpleNamespace(config=SimpleNamespace(backend=lambda: backend)))
    keras_runtime.check_not_forked()
    reader, writer = os.pipe()
    if not (child := os.fork()):
        try:
            keras_runtime.import_keras()
        except ImportError as error:
            os.write(writer, str(error).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        assert (f"its backend {backend!r} would wait forever" in pipe.read()) is hangs
    keras_runtime.check_not_forked()  # the parent goes on


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_without_keras_may_load_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras", None)
    monkeypatch.delitem(sys.modules, "keras")
    child = os.fork()
    if not child:
        os._exit(int(keras_runtime._is_forked_from_keras))
    assert os.waitpid(child, 0)[1] == 0
