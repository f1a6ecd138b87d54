"""Keras computes the same on its other backends."""

import os
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest

from cxr_sklearn import FrozenEmbedder, make_radiographs
from cxr_sklearn._keras import keras_backend

# Importing JAX here would change how much TensorFlow prints in the tests after these.
pytestmark = pytest.mark.skipif(find_spec("jax") is None, reason="needs JAX")
EMBED = (
    "import sys, numpy as np; from cxr_sklearn import FrozenEmbedder; images = np.load(sys.argv[1]); "
    "embedder = FrozenEmbedder(sys.argv[2], weights='random', precision='float32', store=sys.argv[3]); "
    "np.save(sys.argv[1], embedder.fit(images).transform(images)); print(embedder._store().path.name)"
)


@pytest.mark.keras
@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["VGG16", "MobileNet"])
def test_features_agree_and_are_kept_apart(tmp_path, backbone):
    images = make_radiographs(10, size=64, random_state=0)[0][:8]
    embedder = FrozenEmbedder(backbone, weights="random", precision="float32", store=tmp_path).fit(images)
    here = embedder.transform(images)
    np.save(tmp_path / "images.npy", images)
    command = [sys.executable, "-c", EMBED, tmp_path / "images.npy", backbone, tmp_path]
    other = "tensorflow" if keras_backend() == "jax" else "jax"
    done = subprocess.run(
        [str(part) for part in command], env={**os.environ, "KERAS_BACKEND": other}, check=True, capture_output=True,
        text=True,
    )  # fmt: skip
    there = np.load(tmp_path / "images.npy")
    np.testing.assert_allclose(there, here, rtol=1e-4, atol=1e-4 * np.abs(here).max())
    assert done.stdout.strip() not in ("", embedder._store().path.name)
