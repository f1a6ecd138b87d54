"""Global settings of other libraries, which a notebook may have changed, must not change a result."""

import contextlib
import json
import locale
import os
import subprocess
import sys
import textwrap
import threading
import warnings

import numpy as np
import pandas as pd
import pytest
import sklearn
from PIL import Image, ImageFile, PngImagePlugin, TiffImagePlugin
from PIL.PngImagePlugin import PngInfo
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_info, threadpool_limits

from cxr_sklearn import (
    FineTunedClassifier,
    FrozenEmbedder,
    ImageAugmenter,
    ImageLoader,
    ScratchCNNClassifier,
    ShortcutFeatures,
    check,
    compare,
    load_folder,
    load_model,
    make_radiographs,
    predict,
    write_radiographs,
)
from cxr_sklearn._settings import Held, one_blas_thread
from cxr_sklearn.exceptions import ImageReadError, InputError


@contextlib.contextmanager
def switched(module, name, value):
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
        assert getattr(module, name) == value, "the user's setting was not restored"
    finally:
        setattr(module, name, before)


@contextlib.contextmanager
def located(name):
    before = locale.setlocale(locale.LC_ALL)
    locale.setlocale(locale.LC_ALL, name)
    try:
        yield
    finally:
        locale.setlocale(locale.LC_ALL, before)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    write_radiographs(folder, 40, size=64, random_state=0)
    return folder


def everything(folder, out, store):
    """The numbers of a run with all its parts, and what the saved model then says."""
    frame = load_folder(folder)
    mine = make_pipeline(ShortcutFeatures(store=store), StandardScaler(), LogisticRegression())
    compare(frame, {"mine": mine}, out=out, store=store, cv=2, sanity=True, stress=True, calibrate="isotonic")
    tables = {path.name: path.read_text() for path in sorted(out.glob("*.csv"))}
    metrics = json.loads((out / "metrics.json").read_text())
    del metrics["run"]
    for facts in metrics["pipelines"].values():
        del facts["seconds"]
    table = predict(load_model(out / "models" / "mine.skops"), frame["path"])
    return tables, metrics, table["score"].tolist(), table["decision"].tolist()


@pytest.fixture(scope="module")
def right(drawn, tmp_path_factory):
    folder = tmp_path_factory.mktemp("right")
    return everything(drawn, folder / "out", folder / "store")


@pytest.mark.parametrize(
    "setting",
    [
        pytest.param(lambda: np.errstate(all="raise"), id="seterr"),
        pytest.param(lambda: np.printoptions(legacy="1.13", precision=1), id="printoptions"),
        pytest.param(lambda: sklearn.config_context(transform_output="pandas"), id="pandas output"),
        pytest.param(lambda: sklearn.config_context(enable_metadata_routing=True), id="routing"),
        pytest.param(
            lambda: sklearn.config_context(assume_finite=True, skip_parameter_validation=True), id="unchecked"
        ),
        pytest.param(lambda: sklearn.config_context(print_changed_only=False, display="text"), id="repr"),
        pytest.param(lambda: pd.option_context("mode.string_storage", "python"), id="string storage"),
        pytest.param(lambda: pd.option_context("display.float_format", "{:.1f}".format), id="float format"),
        pytest.param(lambda: located("C"), id="locale"),
        pytest.param(lambda: switched(ImageFile, "LOAD_TRUNCATED_IMAGES", True), id="truncated images"),
        pytest.param(lambda: switched(Image, "MAX_IMAGE_PIXELS", 10), id="pixels"),
    ],
)
def test_a_run_does_not_depend_on_settings(drawn, right, tmp_path, setting):
    with setting():
        found = everything(drawn, tmp_path / "out", tmp_path / "store")
    for got, expected in zip(found, right, strict=True):
        assert got == expected


def test_pandas_older_text_columns_are_refused_by_name(drawn):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pandas warns that the option will go
        with pd.option_context("future.infer_string", False), pytest.raises(InputError, match="is off; run pandas"):
            load_folder(drawn)


def test_a_damaged_file_stays_damaged_under_pillows_lenient_switch(drawn, tmp_path):
    whole = next(drawn.rglob("*.jpeg"))
    for split in ("train", "test"):
        for label in ("NORMAL", "PNEUMONIA"):
            (tmp_path / split / label).mkdir(parents=True)
    cut = tmp_path / "train" / "NORMAL" / "cut.jpeg"
    cut.write_bytes(whole.read_bytes()[:1500])
    frame = load_folder(tmp_path, sizes=False)
    with switched(ImageFile, "LOAD_TRUNCATED_IMAGES", True):
        assert list(check(frame, store=tmp_path / "store")["unreadable"]) == [str(cut)]
        with pytest.raises(ImageReadError, match="truncated"):
            ImageLoader(size=32).transform([cut])[0]
    assert list(check(frame, store=tmp_path / "store")["unreadable"]) == [str(cut)]


@pytest.mark.parametrize("module", [PngImagePlugin])
def test_limits_of_text_in_a_png_are_ours(tmp_path, module):
    texts = PngInfo()
    texts.add_text("comment", "x" * 5000, zip=True)
    Image.new("L", (8, 8), 7).save(tmp_path / "image.png", pnginfo=texts)
    with switched(module, "MAX_TEXT_CHUNK", 100), switched(module, "MAX_TEXT_MEMORY", 100):
        assert (ImageLoader(size=8).transform([tmp_path / "image.png"])[0] == 7).all()


def test_either_reader_of_tiff_may_be_switched_on(tmp_path):
    pixels = np.add.outer(np.arange(60), np.arange(40)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.tiff")
    batch = ImageLoader(size=(60, 40)).transform([tmp_path / "image.tiff"])
    with switched(TiffImagePlugin, "READ_LIBTIFF", True):
        assert (batch[0][..., 0] == pixels).all()


def test_settings_are_restored_when_the_last_thread_has_ended():
    value = {"name": "the user's"}
    held = Held({"name": "ours"}, value.get, value.__setitem__)
    inside, leave = threading.Event(), threading.Event()

    def other():
        with held:
            inside.set()
            leave.wait()

    with held:
        thread = threading.Thread(target=other)
        thread.start()
        inside.wait()
    assert value == {"name": "ours"}
    leave.set()
    thread.join()
    assert value == {"name": "the user's"}


def test_a_setting_that_cannot_be_held_leaves_the_others_as_they_were():
    values = {"first": "the user's", "second": "the user's"}

    def write(name, value):
        if (name, value) == ("second", "ours"):
            raise ValueError("not here")
        values[name] = value

    held = Held({"first": "ours", "second": "ours"}, values.get, write)
    with pytest.raises(ValueError, match="not here"):
        held.__enter__()
    assert values == {"first": "the user's", "second": "the user's"}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
def test_a_forked_child_does_not_wait_for_threads_that_it_lacks():
    """Settings are held and released all the time in another thread, so some fork meets their lock taken."""
    program = textwrap.dedent("""
        import os, threading
        from cxr_sklearn._settings import Held
        held = Held({"name": "ours"}, {"name": "the user's"}.get, lambda name, value: None)
        def busy():
            while True:
                with held: pass
        threading.Thread(target=busy, daemon=True).start()
        for _ in range(200):
            if not (child := os.fork()):
                with held: pass
                os._exit(0)
            os.waitpid(child, 0)
        os._exit(0)
    """)
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", program], timeout=60, check=False).returncode == 0


def trained():
    """Numbers from each kind of network, small and quick."""
    images, frame = make_radiographs(16, size=64, random_state=0)
    X, y = images[:24], frame["target"].to_numpy()[:24]
    augmenter = ImageAugmenter()
    cnn = ScratchCNNClassifier(
        filters=(4, 4), epochs=2, batch_size=8, early_stopping=False, augmenter=augmenter, random_state=0
    )
    tuned = FineTunedClassifier("MobileNet", weights="random", trainable_from="conv_pw_13", epochs=1, batch_size=8,
                                label_smoothing=0.1, early_stopping=False, random_state=0)  # fmt: skip
    found = {
        "cnn": [weight.tolist() for weight in cnn.fit(X, y).weights_],
        "history": cnn.history_,
        "tuned": tuned.fit(X, y).predict_proba(X).tolist(),
    }
    for backbone in ("VGG16", "MobileNet"):
        embedder = FrozenEmbedder(backbone, weights="random", store=None, precision="float32")
        found[backbone] = embedder.fit_transform(X[:8]).tolist()
    return found


PROGRAM = "import json, sys; from tests.test_settings import trained; json.dump(trained(), sys.stdout)"


def in_a_process(home, settings=None, **variables):
    home.mkdir(exist_ok=True)
    if settings is not None:
        (home / "keras.json").write_text(json.dumps(settings))
    env = {**os.environ, "KERAS_HOME": str(home), **variables}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", PROGRAM], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.keras
@pytest.mark.slow
def test_networks_do_not_depend_on_keras_settings(tmp_path):
    settings = {
        "backend": os.environ.get("KERAS_BACKEND", "tensorflow"),
        "image_data_format": "channels_first",
        "floatx": "float64",
        "epsilon": 0.5,
    }
    limits = {"KERAS_MAX_EPOCHS": "1", "KERAS_MAX_STEPS_PER_EPOCH": "1"}
    assert in_a_process(tmp_path / "changed", settings, **limits) == in_a_process(tmp_path / "plain")


@pytest.mark.keras
def test_keras_gets_its_settings_back():
    import keras

    keras.config.set_image_data_format("channels_first")
    keras.config.set_dtype_policy("mixed_float16")
    keras.config.set_epsilon(1e-3)
    try:
        trained()
        assert keras.config.image_data_format() == "channels_first"
        assert keras.config.dtype_policy().name == "mixed_float16"
        assert keras.config.epsilon() == 1e-3
    finally:
        keras.config.set_image_data_format("channels_last")
        keras.config.set_dtype_policy("float32")
        keras.config.set_epsilon(1e-7)


def test_one_blas_thread_is_for_the_block_alone():
    def numbers():
        return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}

    with threadpool_limits(2, user_api="blas"):
        with one_blas_thread():
            assert numbers() == {1}
        assert numbers() == {2}
