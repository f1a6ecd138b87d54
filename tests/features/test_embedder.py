"""FrozenEmbedder with a real network: MobileNet on 32 x 32 pixels, with random weights unless a test says otherwise."""

import pickle
import signal
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import joblib
import numpy as np
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline

from cxr_sklearn import (
    FrozenEmbedder,
    ImageLoader,
    ShortcutFeatures,
    load_folder,
    make_radiographs,
    write_radiographs,
)
from cxr_sklearn.exceptions import ImageReadError, InputError, WeightsUnavailableError

pytestmark = pytest.mark.keras
SIZE = 32


def embedder(store, **options):
    return FrozenEmbedder(**{"backbone": "MobileNet", "weights": "random", "store": store, "precision": "float32",
                             **options})  # fmt: skip


@pytest.fixture(scope="module")
def images():
    return make_radiographs(10, size=SIZE, random_state=0)[0][:12]


@pytest.fixture
def frame(tmp_path):
    return write_radiographs(tmp_path / "images", 20, size=SIZE, random_state=0)


@pytest.fixture
def store(tmp_path):
    return tmp_path / "store"


def n_written(store):
    """Number of rows ever written: a replaced row gets a higher rowid."""
    (path,) = store.glob("MobileNet*.sqlite")
    with sqlite3.connect(path) as connection:
        (n,) = connection.execute("SELECT max(rowid) FROM features").fetchone()
    connection.close()
    return n


def test_features_are_those_of_the_network(images):
    from cxr_sklearn.features._backbones import Backbone

    network = Backbone("MobileNet", "random", "random:0", None, "float32").build((SIZE, SIZE, 3))
    maps = network.predict_on_batch(np.repeat(images[..., None], 3, axis=3))
    for pooling, expected in (
        ("avg", maps.mean(axis=(1, 2))),
        ("max", maps.max(axis=(1, 2))),
        ("flatten", maps.reshape(len(maps), -1)),
    ):
        found = embedder(None, pooling=pooling, batch_size=5).fit_transform(images)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_features_of_several_layers_stand_one_behind_the_other(images, store):
    layers = ["conv_pw_1_relu", "conv_pw_3_relu", "conv_pw_5_relu"]
    several = embedder(store, layer=layers)
    found = several.fit_transform(images)
    alone = [embedder(None, layer=layer).fit_transform(images) for layer in layers]
    np.testing.assert_allclose(found, np.hstack(alone), rtol=1e-4, atol=1e-5)
    assert len(several.get_feature_names_out()) == found.shape[1] == 64 + 128 + 256
    again = clone(several).set_params(layer=tuple(layers))
    np.testing.assert_array_equal(again.fit_transform(images), found)
    assert (again.n_embedded_, again.n_cached_) == (0, len(images))
    turned = embedder(store, layer=layers[::-1])
    np.testing.assert_allclose(turned.fit_transform(images), np.hstack(alone[::-1]), rtol=1e-4, atol=1e-5)
    one = embedder(store, layer=layers[:1])
    np.testing.assert_array_equal(one.fit_transform(images), embedder(store, layer=layers[0]).fit_transform(images))
    assert len(list(store.glob("MobileNet*.sqlite"))) == 3


@pytest.mark.parametrize("layer", [[], 3, ["conv1", 3], ["conv1", "conv1"], [None]])
def test_layers_that_are_not_names(images, layer):
    with pytest.raises(InputError, match="layer="):
        embedder(None, layer=layer).fit(images)


def test_one_wrong_layer_among_several(images):
    with pytest.raises(InputError, match="layer='block9' is not a layer of MobileNet"):
        embedder(None, layer=["conv1", "block9"]).fit_transform(images)


@pytest.mark.parametrize(("gpu_is_used", "size"), [(True, 128), (False, 32)])
def test_the_batch_suits_what_keras_computes_on(images, monkeypatch, gpu_is_used, size):
    monkeypatch.setattr("cxr_sklearn.features.embedder.gpu_is_used", lambda: gpu_is_used)
    assert embedder(None).fit(images).batch_size_ == size
    assert embedder(None, batch_size=5).fit(images).batch_size_ == 5


def test_images_too_small_for_a_network(images):
    with pytest.raises(InputError, match=r"^InceptionV3 on images of 32 x 32 pixels: .*75"):
        embedder(None, backbone="InceptionV3").fit_transform(images)


def test_images_of_two_sizes_in_one_store(images, store):
    for size in (32, 64):
        step = make_pipeline(ImageLoader(size=size), embedder(store, pooling="flatten"))
        assert step.fit_transform(images).shape == (12, 1024 * (size // 32) ** 2)
        assert len(step[1].get_feature_names_out()) == 1024 * (size // 32) ** 2


def test_a_layer_cuts_the_network(images):
    step = embedder(None, layer="conv_pw_3_relu").fit(images)
    assert step.transform(images).shape == (12, 128)
    assert step.get_feature_names_out().tolist()[:2] == ["mobilenet_0", "mobilenet_1"]
    assert len(step.get_feature_names_out()) == 128


def test_counters_and_repeats(images, store):
    step = embedder(store).fit(images)
    first = step.transform(images[[0, 1, 2, 1, 0]])
    assert (step.n_embedded_, step.n_cached_) == (3, 2)
    np.testing.assert_array_equal(first[0], first[4])
    step.transform(images)
    assert (step.n_embedded_, step.n_cached_) == (9, 3)
    assert embedder(store).fit(images).transform(images).shape == (12, 1024)
    assert n_written(store) == 12


def test_what_decides_a_feature_decides_the_file(images, store):
    for options in ({}, {"layer": "conv_pw_3_relu"}, {"pooling": "max"}, {"precision": "bfloat16"}):
        embedder(store, **options).fit_transform(images[:1])
    assert len(list(store.glob("MobileNet*.sqlite"))) == 4
    step = embedder(store, batch_size=7, verbose=1).fit(images)
    step.transform(images[:1])
    assert step.n_embedded_ == 0


@pytest.mark.parametrize("through", [clone, lambda step: pickle.loads(pickle.dumps(step))])
def test_clones_and_pickles_find_the_features(images, store, through, tmp_path):
    step = embedder(store)
    features = step.fit_transform(images)
    again = through(step)
    np.testing.assert_array_equal(again.fit(images).transform(images), features)
    assert again.n_embedded_ == 0
    assert len(pickle.dumps(step)) < 5_000


def test_pandas_output(images):
    table = embedder(None).set_output(transform="pandas").fit_transform(images[:2])
    assert table.columns[5] == "mobilenet_5"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "LeNet"}, "backbone='LeNet'"),
        ({"pooling": "sum"}, "pooling='sum'"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": "large"}, "batch_size='large'"),
        ({"precision": "float16"}, "precision='float16'"),
    ],
)
def test_wrong_parameters_are_refused_by_name(images, options, message):
    with pytest.raises(ValueError, match=message):
        embedder(None, **options).fit(images)


def test_vectors_are_refused_with_a_hint():
    with pytest.raises(ValueError, match="put an ImageLoader before"):
        embedder(None).fit(np.zeros((4, 10)))


def test_images_of_another_size_are_refused(images):
    with pytest.raises(ValueError, match=r"but fit saw \(32, 32, 3\)"):
        embedder(None).fit(images).transform(np.zeros((1, 64, 64), dtype=np.uint8))


def test_weights_gone_after_fit_matter_only_for_new_images(images, store, tmp_path):
    from cxr_sklearn._keras import import_keras

    path = tmp_path / "own.weights.h5"
    import_keras().applications.MobileNet(weights=None, include_top=False, input_shape=(SIZE, SIZE, 3)).save_weights(
        path
    )
    step = embedder(store, weights=path).fit(images)
    step.transform(images[:6])
    path.write_bytes(b"something else")
    copy = pickle.loads(pickle.dumps(step))
    assert copy.transform(images[:6]).shape == (6, 1024)
    with pytest.raises(WeightsUnavailableError, match="not those"):
        forget_networks(copy).transform(images)


def forget_networks(step):
    """Forget the networks of this process, as if it were a new one."""
    from cxr_sklearn.features import embedder as module

    module._build_network.cache_clear()
    return step


@pytest.mark.parametrize("n_jobs", [None, 2])
@pytest.mark.parametrize("save", ["not at all", "clone", "pickle", "joblib"])
def test_a_search_embeds_each_image_once(frame, store, tmp_path, n_jobs, save):
    n = len(frame)
    pipeline = make_pipeline(ImageLoader(size=SIZE), embedder(store), LogisticRegression(max_iter=5000))
    search = GridSearchCV(
        pipeline, {"logisticregression__C": np.logspace(-4, -2, 6)}, cv=StratifiedGroupKFold(5), scoring="roc_auc",
        n_jobs=n_jobs,
    )  # fmt: skip
    search.fit(frame["path"], frame["target"], groups=frame["patient"])
    assert n_written(store) == n
    if save == "clone":
        search = clone(search)
    elif save == "pickle":
        search = pickle.loads(pickle.dumps(search))
    elif save == "joblib":
        joblib.dump(search, tmp_path / "search.joblib")
        search = joblib.load(tmp_path / "search.joblib")
    search.fit(frame["path"], frame["target"], groups=frame["patient"])
    assert n_written(store) == n
    search.predict(frame["path"])
    assert search.best_estimator_[1].n_embedded_ == 0


def test_new_bytes_under_an_old_name_are_embedded_anew(frame, store):
    path = frame["path"][0]
    step = make_pipeline(ImageLoader(size=SIZE), embedder(store))
    before = step.fit_transform([path])
    Path(frame["path"][1]).replace(path)
    after = step.transform([path])
    assert not np.allclose(before, after)
    twin = path + ".copy.jpeg"
    with open(path, "rb") as source, open(twin, "wb") as target:  # noqa: PTH123
        target.write(source.read())
    np.testing.assert_array_equal(step.transform([twin]), after)
    assert step[1].n_embedded_ == 0


def test_readable_images_are_kept_when_others_are_not(frame, store, tmp_path):
    (tmp_path / "text.jpeg").write_text("not an image")
    step = make_pipeline(ImageLoader(size=SIZE), embedder(store))
    with pytest.raises(ImageReadError, match=f"1 of {len(frame) + 1}"):
        step.fit_transform([str(tmp_path / "text.jpeg"), *frame["path"]])
    step.transform(frame["path"])
    assert step[1].n_embedded_ == 0


EMBED = """
    import glob, sys
    from cxr_sklearn import FrozenEmbedder, ImageLoader
    paths = sorted(glob.glob(sys.argv[1] + "/*/*/*.jpeg"))
    step = FrozenEmbedder("MobileNet", weights="random", precision="float32", store=sys.argv[2], batch_size=4)
    batch = ImageLoader(size=32).transform(paths)
    step.fit(batch)
    print("ready", flush=True)
    step.transform(batch)
"""


def start(folder, store):
    code = textwrap.dedent(EMBED)
    return subprocess.Popen([sys.executable, "-c", code, str(folder), str(store)], stdout=subprocess.PIPE)


@pytest.mark.slow
def test_killed_at_any_moment_only_the_batch_in_flight_is_lost(tmp_path):
    """Kill the process as soon as the store holds so many rows; these must be correct and not computed again."""
    folder, store = tmp_path / "images", tmp_path / "store"
    write_radiographs(folder, 40, size=SIZE, random_state=1)
    paths = load_folder(folder, sizes=False)["path"]
    expected = make_pipeline(ImageLoader(size=SIZE), embedder(None)).fit_transform(paths)
    step = make_pipeline(ImageLoader(size=SIZE), embedder(store)).fit(paths)
    feature_store = step[1]._store()
    for at_least in (4, 28):
        worker = start(folder, store)
        while len(feature_store) < at_least:
            assert worker.poll() is None, "finished before it could be killed"
        worker.send_signal(signal.SIGKILL)
        worker.communicate()
        n_kept = len(feature_store)
        assert n_kept >= at_least
        assert n_kept % 4 == 0
    np.testing.assert_allclose(step.transform(paths), expected, rtol=1e-4, atol=1e-5)
    assert step[1].n_embedded_ == len(paths) - n_kept


@pytest.mark.slow
def test_two_processes_embed_one_folder_once(tmp_path):
    folder, store = tmp_path / "images", tmp_path / "store"
    n = len(write_radiographs(folder, 30, size=SIZE, random_state=2))
    workers = [start(folder, store) for _ in range(2)]
    assert [worker.communicate() and worker.returncode for worker in workers] == [0, 0]
    assert n_written(store) == n
    paths = load_folder(folder, sizes=False)["path"]
    step = make_pipeline(ImageLoader(size=SIZE), embedder(store)).fit(paths)
    alone = make_pipeline(ImageLoader(size=SIZE), embedder(None)).fit_transform(paths)
    np.testing.assert_allclose(step.transform(paths), alone, rtol=1e-4, atol=1e-5)
    assert step[1].n_embedded_ == 0


PEAK = """
    import resource, sys
    import numpy as np
    from cxr_sklearn import FrozenEmbedder, ImageLoader
    paths = np.resize(np.array(sys.argv[2:], dtype=object), int(sys.argv[1]))
    batch = ImageLoader(size=64).transform(paths)
    # Every image is another view, so that each is decoded and embedded.
    from cxr_sklearn import ImageAugmenter
    batch = ImageAugmenter(random_state=0).fit(batch).view(batch, np.arange(1, len(batch) + 1))
    step = FrozenEmbedder("MobileNet", weights="random", precision="float32", store=None).fit(batch)
    features = step.transform(batch)
    assert step.n_embedded_ == len(batch)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - features.nbytes)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    """4,000 more images of 64 x 64 pixels would take 49 MB, and four times as much in float32."""
    paths = write_radiographs(tmp_path, 10, size=64, random_state=0)["path"].tolist()
    code = textwrap.dedent(PEAK)
    peaks = [
        int(subprocess.run([sys.executable, "-c", code, str(n), *paths], capture_output=True, check=True).stdout)
        for n in (1_000, 5_000)
    ]
    assert peaks[1] < 1.1 * peaks[0]


@pytest.mark.slow
def test_kept_features_are_still_what_the_network_gives(kept_features):
    """Draw a few of the radiographs behind cache/synthetic again and embed them with VGG16."""
    import importlib.util

    from ..conftest import ROOT

    spec = importlib.util.spec_from_file_location("make", ROOT / "cache" / "synthetic" / "make.py")
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    features, frame = kept_features
    images, drawn = make.draw()
    assert drawn["path"].tolist() == frame["path"].tolist()
    rows = [0, 50, 200]
    np.testing.assert_allclose(make.embed(images[rows]), features[rows], rtol=2e-3, atol=2e-2)


@pytest.mark.realdata
@pytest.mark.slow
def test_imagenet_weights_on_real_radiographs(real_data, real_weights, store):
    """MobileNet with real weights separates real radiographs of new patients."""
    frame = load_folder(real_data / "chest_xray_224", sizes=False)
    train = frame[frame["split"] == "train"].groupby("target").sample(120, random_state=0)
    test = frame[frame["split"] == "test"]
    model = make_pipeline(
        ImageLoader(),
        FrozenEmbedder("MobileNet", weights=real_weights, layer="conv_pw_12_relu", store=store),
        LogisticRegression(C=0.1, max_iter=5000),
    )
    model.fit(train["path"], train["target"])
    from sklearn.metrics import roc_auc_score

    assert roc_auc_score(test["target"], model.predict_proba(test["path"])[:, 1]) > 0.9


def fitted(steps, frame, memory):
    return Pipeline([*steps(), ("classify", LogisticRegression(max_iter=1000))], memory=memory).fit(
        frame["path"], frame["target"]
    )


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param(lambda: [("load", ImageLoader(size=SIZE)), ("embed", embedder(None))], id="steps"),
        pytest.param(lambda: [("both", make_pipeline(ImageLoader(size=SIZE), embedder(None)))], id="nested"),
        pytest.param(lambda: [("measure", ShortcutFeatures(store=None))], id="shortcuts"),
        pytest.param(
            lambda: [
                (
                    "both",
                    FeatureUnion(
                        [
                            ("a", ShortcutFeatures(store=None)),
                            ("b", make_pipeline(ImageLoader(size=SIZE), embedder(None))),
                        ]
                    ),
                )
            ],
            id="union",
        ),
    ],
)
def test_a_pipelines_memory_never_serves_files_that_were_replaced(frame, tmp_path, steps):
    before = fitted(steps, frame, str(tmp_path / "memory"))["classify"].coef_
    for path in frame["path"]:
        with Image.open(path) as image:
            image.rotate(180).point(lambda level: level // 2).save(path)
    after, right = (fitted(steps, frame, memory)["classify"].coef_ for memory in (str(tmp_path / "memory"), None))
    assert not np.allclose(before, after)
    np.testing.assert_allclose(after, right)


def test_a_pipelines_memory_is_used_while_files_are_the_same(frame, tmp_path, monkeypatch):
    steps = [
        ("load", ImageLoader(size=SIZE)),
        ("embed", embedder(None)),
        ("classify", LogisticRegression(max_iter=1000)),
    ]
    first = Pipeline(steps, memory=str(tmp_path)).fit(frame["path"], frame["target"])
    monkeypatch.setattr(FrozenEmbedder, "_embed", None)
    again = Pipeline(steps, memory=str(tmp_path)).fit(frame["path"], frame["target"])
    np.testing.assert_array_equal(again["classify"].coef_, first["classify"].coef_)


def test_other_columns_are_joined_to_the_rows_of_their_images(frame):
    rows = frame.sample(frac=1, random_state=0)[:8].assign(age=range(8))
    images = make_pipeline(ImageLoader(size=SIZE), embedder(None))
    both = ColumnTransformer([("images", images, "path"), ("others", "passthrough", ["age"])])
    table = both.set_output(transform="pandas").fit_transform(rows)
    assert table.index.equals(rows.index)
    plain = clone(both).set_output(transform="default").fit_transform(rows)
    np.testing.assert_allclose(table.to_numpy(), plain)
    assert both.transform(rows[::2]).index.equals(rows[::2].index)
