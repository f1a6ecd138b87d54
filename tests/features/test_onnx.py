"""Frozen networks run by ONNX Runtime: exported for real from small networks with random weights."""

import errno
import json
import pickle
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from sklearn.base import clone

from cxr_sklearn import FrozenEmbedder, compare, make_radiographs, write_radiographs
from cxr_sklearn.exceptions import BackendError, InputError, RecipeError
from cxr_sklearn.features import _onnx
from cxr_sklearn.features._backbones import Backbone
from cxr_sklearn.features._onnx_export import drawn_images
from cxr_sklearn.models._steps import describe_networks

pytest.importorskip("onnxruntime")
SIZE = 32


@pytest.fixture(autouse=True, scope="module")
def keras_home(tmp_path_factory):
    """A folder of weights for this module, so that each network is exported once and none is left behind."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("keras")
        patch.setenv("KERAS_HOME", str(folder))
        yield folder


@pytest.fixture(scope="module")
def images():
    return make_radiographs(10, size=SIZE, random_state=0)[0][:12]


def embedder(**options):
    return FrozenEmbedder(**{"backbone": "MobileNet", "weights": "random", "store": None, **options})


def differs(found, wanted):
    return np.linalg.norm(found - wanted) / np.linalg.norm(wanted)


@pytest.mark.parametrize(
    ("asked", "got"),
    [
        (("auto", "int8"), ("onnx", "int8")),
        (("onnx", "auto"), ("onnx", "float32")),
        (("onnx", "float32"), ("onnx", "float32")),
        (("auto", "float32"), ("keras", "float32")),
        (("keras", "bfloat16"), ("keras", "bfloat16")),
    ],
)
def test_engine_and_precision_are_resolved_together(asked, got):
    assert _onnx.resolve_engine(*asked) == got


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("keras", "int8"), "engine='keras' does not have precision='int8'"),
        (("onnx", "bfloat16"), "engine='onnx' has precision='float32' and 'int8', not 'bfloat16'"),
        (("torch", "auto"), "engine='torch' must be 'auto', 'keras' or 'onnx'"),
        (("auto", "int4"), "precision='int4' must be 'auto', 'float32', 'bfloat16' or 'int8'"),
    ],
)
def test_impossible_combinations_are_refused(asked, said, images):
    engine, precision = asked
    with pytest.raises(InputError, match=said):
        embedder(engine=engine, precision=precision).fit(images)


def test_without_the_extra_its_name_is_said(monkeypatch, images):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BackendError, match=r"pip install 'cxr-sklearn\[onnx\]'"):
        embedder(precision="int8").fit(images)


def test_auto_never_picks_int8(images):
    assert embedder().fit(images).precision_ in ("float32", "bfloat16")


def test_drawn_images_are_the_same_in_every_call():
    shape = (24, 40, 3)
    first, second = (drawn_images(shape, 8) for _ in range(2))
    assert first.shape == (8, *shape)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, second)


def test_an_embedder_of_an_earlier_version_computes_as_before(images):
    earlier = embedder(precision="float32").fit(images)
    del earlier.__dict__["engine"]
    later = pickle.loads(pickle.dumps(earlier))
    assert later.engine == "auto"
    assert not later._uses_onnx()


class TestKeptNetworks:
    """Where exported networks cannot be kept, that is one clear error."""

    backbone = Backbone("MobileNet", "random", "random:0", None, "float32")

    def test_a_folder_that_cannot_be_made(self, monkeypatch, tmp_path):
        (tmp_path / "home").touch()
        monkeypatch.setenv("KERAS_HOME", str(tmp_path / "home"))
        with pytest.raises(
            OSError, match=r"MobileNet cannot be kept .* in .*home/models \(Not a directory\); make room"
        ):
            _onnx.network_file(self.backbone, "avg", (SIZE, SIZE, 3), "int8")

    def test_a_full_disk(self, monkeypatch, tmp_path):
        def full(*args):
            raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "draft"))

        monkeypatch.setenv("KERAS_HOME", str(tmp_path))
        monkeypatch.setattr(_onnx, "_export", full)
        with pytest.raises(OSError, match=r"\(No space left on device\); make room there, or set KERAS_HOME") as caught:
            _onnx.network_file(self.backbone, "avg", (SIZE, SIZE, 3), "int8")
        assert "draft" not in str(caught.value)
        assert list((tmp_path / "models").iterdir()) == []


def test_precision_for_recipes_without_frozen_networks_is_refused(tmp_path):
    frame = write_radiographs(tmp_path / "images", 20, size=SIZE, random_state=0)
    with pytest.raises(
        RecipeError, match="precision='int8' is for frozen networks, and scratch_cnn has no such network"
    ):
        compare(frame, ["scratch_cnn"], out=tmp_path / "run", precision="int8")


@pytest.mark.keras
class TestExported:
    def test_float32_equals_keras(self, images):
        wanted = embedder(precision="float32").fit_transform(images)
        found = embedder(engine="onnx").fit_transform(images)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())

    def test_several_layers_and_poolings(self, images):
        options = {"layer": ["conv_pw_3_relu", "conv_pw_5_relu"], "pooling": "max"}
        wanted = embedder(precision="float32", **options).fit_transform(images)
        found = embedder(engine="onnx", **options).fit_transform(images)
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())

    def test_int8_is_close_and_does_not_depend_on_the_batch(self, images):
        wanted = embedder(precision="float32").fit_transform(images)
        quantised = embedder(precision="int8").fit(images)
        found = quantised.transform(images)
        assert 0 < differs(found, wanted) < 0.25
        one_by_one = np.concatenate([quantised.transform(images[i : i + 1]) for i in range(len(images))])
        np.testing.assert_array_equal(one_by_one, found)

    def test_names_explanations_and_facts_of_an_int8_embedder(self, images):
        quantised = embedder(precision="int8").fit(images)
        assert len(quantised.get_feature_names_out()) == quantised.transform(images[:1]).shape[1]
        assert quantised.maps_network().dtype == "float32"
        assert describe_networks(clone(quantised))[0]["precision"] == "int8"

    def test_rows_are_kept_apart_by_engine_and_precision(self, images, tmp_path):
        for options in ({"precision": "float32"}, {"engine": "onnx"}, {"precision": "int8"}):
            own = embedder(store=tmp_path, **options).fit(images)
            own.transform(images)
            assert (own.n_embedded_, own.n_cached_) == (len(images), 0)
            again = clone(own).fit(images)
            again.transform(images)
            assert (again.n_embedded_, again.n_cached_) == (0, len(images))
        assert len(list(tmp_path.glob("MobileNet*.sqlite"))) == 3

    def test_a_new_process_computes_the_same_without_tensorflow(self, images, tmp_path):
        wanted = embedder(precision="int8").fit_transform(images)
        np.save(tmp_path / "images.npy", images)
        program = """
            import os, signal, sys
            import numpy as np
            from cxr_sklearn import FrozenEmbedder
            embedder = FrozenEmbedder("MobileNet", weights="random", precision="int8", store=None)
            images = np.load(sys.argv[1] + "/images.npy")
            rows = embedder.fit_transform(images)
            np.save(sys.argv[1] + "/rows.npy", rows)
            if (child := os.fork()) == 0:  # the threads of the session are not in there
                signal.alarm(60)
                os._exit(not np.array_equal(embedder.transform(images), rows))
            assert os.waitpid(child, 0)[1] == 0
            assert not {"tensorflow", "keras", "tf2onnx", "onnx"} & set(sys.modules), "for the export alone"
        """
        subprocess.run([sys.executable, "-c", textwrap.dedent(program), str(tmp_path)], check=True)
        np.testing.assert_array_equal(np.load(tmp_path / "rows.npy"), wanted)

    def test_a_damaged_file_is_written_again(self, images, keras_home):
        wanted = embedder(precision="int8").fit_transform(images)
        (path,) = (keras_home / "models").glob("cxr_sklearn-MobileNet-int8-*.onnx")
        path.write_bytes(path.read_bytes()[:-1000])
        _onnx._load_session.cache_clear()
        np.testing.assert_array_equal(embedder(precision="int8").fit_transform(images), wanted)

    def test_a_layer_that_onnx_does_not_have_is_named(self, images):
        with pytest.raises(InputError, match=r"ConvNeXtTiny cannot be exported: its layer '\w+' \(Conv2D\)"):
            embedder(backbone="ConvNeXtTiny", engine="onnx").fit_transform(images)

    def test_an_export_that_dies_is_reported(self, images, monkeypatch, tmp_path):
        dying = tmp_path / "python"
        dying.write_text("#!/bin/sh\necho 'out of memory' >&2\nkill -9 $$\n")
        dying.chmod(0o755)
        monkeypatch.setattr(_onnx, "EXPORT", "another")
        monkeypatch.setattr(sys, "executable", str(dying))
        _onnx._load_session.cache_clear()
        with pytest.raises(BackendError, match="MobileNet could not be exported to ONNX: out of memory"):
            embedder(engine="onnx").fit_transform(images)

    def test_compare_on_int8_features(self, tmp_path):
        frame = write_radiographs(tmp_path / "images", 24, size=SIZE, random_state=0)
        recipe = tmp_path / "frozen.py"
        recipe.write_text(
            textwrap.dedent("""
            '''A frozen network.'''
            from sklearn.linear_model import LogisticRegression
            from sklearn.pipeline import make_pipeline
            from cxr_sklearn import FrozenEmbedder, ImageLoader
            def build(store, weights, precision):
                embedder = FrozenEmbedder("MobileNet", weights=weights, precision=precision, store=store)
                return make_pipeline(ImageLoader(size=(32, 32)), embedder, LogisticRegression())
            """)
        )
        metrics = compare(frame, [recipe], out=tmp_path / "run", weights="random", precision="int8", cv=2)
        assert metrics["pipelines"]["frozen"]["backbones"][0]["precision"] == "int8"
        assert "int8" in json.dumps(json.loads((tmp_path / "run" / "metrics.json").read_text()))
