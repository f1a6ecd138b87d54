"""Fixtures: real radiographs, if available, and kept features that make Keras unnecessary."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cxr_sklearn import FrozenEmbedder, ImageLoader, compare
from cxr_sklearn.images.batch import ImageBatch

ROOT = Path(__file__).parents[1]
FROZEN = ["vgg16_logistic", "vgg16_mlp", "shortcuts"]
LAYERS = ("block3_pool", "block4_pool", "block5_pool")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """No test may touch the user's feature store."""
    monkeypatch.setenv("CXR_SKLEARN_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def real_data():
    """Folder of the real radiographs; skips, naming the folder, if there are none."""
    folder = Path(os.environ.get("CXR_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "chest_xray_224").is_dir():
        pytest.skip(f"no real radiographs in {folder}; name their folder in CXR_DATA")
    return folder


@pytest.fixture(scope="session")
def real_weights(real_data):
    path = real_data.parent / "weights" / "mobilenet_1_0_224_imagenet_no_top_pw13_zeroed.weights.h5"
    if not path.is_file():
        pytest.skip(f"no ImageNet weights at {path}")
    return path


@pytest.fixture(scope="session")
def kept_features():
    """Features and frame of the synthetic radiographs in cache/synthetic."""
    folder = ROOT / "cache" / "synthetic"
    return np.load(folder / "features.npz")["features"].astype(np.float32), pd.read_csv(folder / "frame.csv")


@pytest.fixture(scope="session")
def embedded_frame(kept_features, tmp_path_factory):
    """A frame of small placeholder files and a store that holds VGG16 features for them, so Keras is not needed.

    The files are not the radiographs the features came from: another version of a codec or of NumPy would give them
    other bytes, and their features would not be found.
    """
    features, frame = kept_features
    folder = tmp_path_factory.mktemp("stand-ins")
    paths = [write_image(folder / path, seed=i) for i, path in enumerate(frame["path"])]
    store = folder / "store"
    batch = ImageLoader(crop=0.8).transform(paths)
    feature_store = FrozenEmbedder(weights="random", layer=LAYERS, store=store).fit(batch)._store()
    with feature_store.claim(batch.keys) as (missing, rows):
        rows.update(zip(missing, features, strict=True))
    return frame.assign(path=paths), store


def write_image(path, seed=0, size=(9, 8), **options):
    """Write a small image of noise with this height and width, and return its path as text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, size=size, dtype=np.uint8)
    Image.fromarray(pixels).save(path, format="PNG", **options)
    return str(path)


@pytest.fixture(scope="session")
def run(embedded_frame, tmp_path_factory):
    """Metrics, folder and frame of one run; tests must not write into the folder."""
    frame, store = embedded_frame
    out = tmp_path_factory.mktemp("run") / "deep" / "er"
    return compare(frame, FROZEN, out=out, weights="random", store=store, cv=3), out, frame


@pytest.fixture
def decoded(monkeypatch):
    """How often each image was decoded, by its path and the height it was decoded to."""
    counts, plain = Counter(), ImageBatch._decoded

    def counted(self, i):
        counts[self.name(i), self.shape[1]] += 1
        return plain(self, i)

    monkeypatch.setattr(ImageBatch, "_decoded", counted)
    return counts
