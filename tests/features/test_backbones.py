import hashlib
import inspect
import subprocess
import sys
from unittest import mock

import numpy as np
import pytest

from cxr_sklearn._keras import import_keras
from cxr_sklearn.exceptions import CXRError, WeightsUnavailableError
from cxr_sklearn.features import _backbones as backbones
from cxr_sklearn.features._backbones import (
    Application,
    Backbone,
    application,
    applications,
    weights_identity,
    weights_path,
)


@pytest.fixture
def keras_home(tmp_path, monkeypatch):
    """An empty Keras cache."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    (tmp_path / "keras" / "models").mkdir(parents=True)
    return tmp_path / "keras" / "models"


def test_unknown_networks_are_answered_with_close_names():
    with pytest.raises(ValueError, match=r"'VGG-16' is not in keras\.applications; did you mean VGG16"):
        application("VGG-16")


def test_a_file_is_named_by_its_content(tmp_path):
    path = tmp_path / "some.weights.h5"
    path.write_bytes(b"one")
    assert weights_identity("VGG16", path) == f"sha256:{hashlib.sha256(b'one').hexdigest()}"
    path.write_bytes(b"other")
    assert weights_identity("VGG16", path) == f"sha256:{hashlib.sha256(b'other').hexdigest()}"
    assert weights_identity("VGG16", "random") == "random:0"


def test_a_path_that_is_not_a_file(tmp_path):
    with pytest.raises(
        WeightsUnavailableError, match=r"absent\.h5' is neither 'imagenet', 'random' nor a file"
    ) as caught:
        weights_path("VGG16", tmp_path / "absent.h5")
    assert isinstance(caught.value, CXRError | OSError)


def test_a_cached_file_of_the_wrong_checksum_is_named_and_left_alone(keras_home):
    path = keras_home / application("VGG16").weights_file
    path.write_bytes(b"half a download")
    with pytest.raises(WeightsUnavailableError, match=r"vgg16.*is not the file that Keras published"):
        weights_path("VGG16", "imagenet")
    assert path.exists()


def test_a_cached_file_of_the_right_checksum_is_taken(keras_home, monkeypatch):
    known = Application("VGG16", "vgg16", "file.h5", hashlib.md5(b"weights").hexdigest())
    monkeypatch.setattr(backbones, "application", lambda name: known)
    (keras_home / "file.h5").write_bytes(b"weights")
    assert weights_path("VGG16", "imagenet") == keras_home / "file.h5"


@pytest.mark.keras
def test_offline_and_not_cached(keras_home, monkeypatch):
    keras = import_keras()

    def offline(**options):
        raise Exception("URL fetch failure")

    monkeypatch.setattr(keras.applications, "VGG16", offline)
    with pytest.raises(WeightsUnavailableError, match=r"vgg16_weights.*--weights PATH, --weights random"):
        weights_path("VGG16", "imagenet")


@pytest.mark.keras
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`input_shape` is undefined:UserWarning")
def test_the_table_of_networks_is_that_of_the_installed_keras():
    """Ask every constructor which file it would fetch, without fetching it."""
    keras = import_keras()

    class AskedError(Exception):
        pass

    zeros, asked = keras.ops.zeros, {}
    for name, build in vars(keras.applications).items():
        if not inspect.isfunction(build) or "weights" not in inspect.signature(build).parameters:
            continue

        def answer(fname, origin=None, *, file_hash=None, **_):
            raise AskedError(fname, file_hash or "")

        module = sys.modules[build.__module__]
        file_utils = sys.modules[f"{build.__module__.rsplit('.', 2)[0]}.utils.file_utils"]
        with (
            mock.patch.object(file_utils, "get_file", answer),
            # Drawing the weights of forty large networks would take minutes.
            mock.patch.object(
                keras.initializers.VarianceScaling, "__call__", lambda _, shape, dtype=None: zeros(shape)
            ),
            pytest.raises(AskedError) as caught,
        ):
            build(weights="imagenet", include_top=False)
        asked[name] = Application(name, module.__name__.rsplit(".", 1)[1], *caught.value.args)
    # As lines of the file, so that a missing line can be pasted from the output.
    assert {",".join(network) for network in asked.values()} == {",".join(it) for it in applications().values()}


@pytest.mark.keras
class TestNetworks:
    """With the small MobileNet, at the smallest image size that it accepts."""

    shape = (32, 32, 3)

    def features(self, images, **options):
        backbone = Backbone(**{"name": "MobileNet", "weights": "random", "identity": "random:0", "layer": None,
                               "precision": "float32", **options})  # fmt: skip
        return np.asarray(backbone.build(self.shape)(images))

    @pytest.fixture
    def images(self):
        return np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)

    def test_random_weights_are_the_same_each_time(self, images):
        first = self.features(images)
        import_keras().utils.set_random_seed(1)
        np.testing.assert_array_equal(self.features(images), first)
        assert 1e-4 < first.std() < 100

    def test_preprocessing_is_that_of_the_network(self, images):
        keras = import_keras()
        path_free = keras.applications.MobileNet(weights=None, include_top=False, input_shape=self.shape)
        backbones._draw_weights(path_free)
        prepared = keras.applications.mobilenet.preprocess_input(images.astype(np.float32))
        np.testing.assert_allclose(self.features(images), np.asarray(path_free(prepared)), rtol=1e-4, atol=1e-5)

    def test_thedtype_policy_is_put_back(self, images):
        keras = import_keras()
        before = keras.config.dtype_policy().name
        low = self.features(images, precision="bfloat16").astype(np.float32)
        assert keras.config.dtype_policy().name == before
        high = self.features(images)
        assert np.corrcoef(low.ravel(), high.ravel())[0, 1] > 0.99
        assert not np.array_equal(low, high)

    def test_a_layer_that_is_not_there(self, images):
        with pytest.raises(ValueError, match=r"layer='pool9' is not a layer of MobileNet; choose one of \['input"):
            self.features(images, layer="pool9")

    def test_weights_by_path(self, images, tmp_path):
        keras = import_keras()
        network = keras.applications.MobileNet(weights=None, include_top=False, input_shape=self.shape)
        network.save_weights(tmp_path / "own.weights.h5")
        save_legacy_h5(network, tmp_path / "own.h5")
        prepared = keras.applications.mobilenet.preprocess_input(images.astype(np.float32))
        expected = np.asarray(network(prepared))
        for path in (str(tmp_path / "own.weights.h5"), str(tmp_path / "own.h5")):
            found = self.features(images, weights=path, identity=weights_identity("MobileNet", path))
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)

    def test_weights_from_the_cache_of_keras(self, images, keras_home):
        """MobileNet's file has no published checksum, so a file in Keras' own layout can stand in for it.

        Keras looks for its folder when it is imported: a new process must show that the file is found there.
        """
        network = import_keras().applications.MobileNet(weights=None, include_top=False, input_shape=self.shape)
        path = keras_home / application("MobileNet").weights_file
        save_legacy_h5(network, path)
        code = """
import numpy as np
from cxr_sklearn import FrozenEmbedder
images = np.random.default_rng(0).integers(0, 256, (2, 32, 32), dtype=np.uint8)
step = FrozenEmbedder("MobileNet", store=None, precision="float32").fit(images)
print(step.weights_id_, step.transform(images).sum())
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        identity, total = done.stdout.split()[-2:]
        assert identity == f"imagenet:{weights_identity('MobileNet', path)}"
        grey = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 1), dtype=np.uint8).repeat(3, axis=3)
        maps = self.features(grey, weights=str(path), identity=weights_identity("MobileNet", path))
        assert float(total) == pytest.approx(maps.mean(axis=(1, 2)).sum(), rel=1e-4)

    def test_weights_of_another_network(self, images, tmp_path):
        keras = import_keras()
        other = keras.applications.VGG16(weights=None, include_top=False, input_shape=self.shape)
        other.save_weights(tmp_path / "vgg.weights.h5")
        identity = weights_identity("MobileNet", tmp_path / "vgg.weights.h5")
        with pytest.raises(WeightsUnavailableError, match="does not hold the weights of MobileNet"):
            self.features(images, weights=str(tmp_path / "vgg.weights.h5"), identity=identity)
        (tmp_path / "text.h5").write_text("no weights at all")
        identity = weights_identity("MobileNet", tmp_path / "text.h5")
        with pytest.raises(WeightsUnavailableError, match="does not hold the weights of MobileNet"):
            self.features(images, weights=str(tmp_path / "text.h5"), identity=identity)

    def test_weights_that_changed_since_they_were_fitted_with(self, images, tmp_path):
        path = tmp_path / "own.weights.h5"
        path.write_bytes(b"anything")
        with pytest.raises(WeightsUnavailableError, match="are not those used for fitting"):
            self.features(images, weights=str(path), identity="sha256:0000")


def save_legacy_h5(network, path):
    """Write weights in the layout of the files that Keras publishes."""
    import h5py

    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.name.encode() for layer in network.layers]
        file.attrs["backend"] = b"tensorflow"
        file.attrs["keras_version"] = b"2.0"
        for layer in network.layers:
            group = file.create_group(layer.name)
            variables = layer.trainable_weights + layer.non_trainable_weights
            names = [f"{layer.name}/{i}:0".encode() for i, _ in enumerate(variables)]
            group.attrs["weight_names"] = names
            for name, variable in zip(names, variables, strict=True):
                group[name.decode()] = np.asarray(variable)
