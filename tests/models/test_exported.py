"""Exported models: what is read, what is refused, and that nothing heavy is imported for it."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from cxr_sklearn import ExportedModel, ImageLoader, _onnxruntime, load_model, predict
from cxr_sklearn.cli import app
from cxr_sklearn.exceptions import BackendError, ImageReadError, InputError, ModelError
from cxr_sklearn.models import exported as module

from ..conftest import write_image

pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper  # noqa: E402

from .exported import ZEROS, exported, looping, metadata, network, resigned, signed  # noqa: E402

HEAVY = ("keras", "tensorflow", "sklearn", "scipy", "pandas", "matplotlib", "skops", "joblib")


@pytest.fixture
def path(tmp_path):
    (tmp_path / "model.onnx").write_bytes(exported())
    return tmp_path / "model.onnx"


@pytest.fixture
def images(tmp_path):
    return [write_image(tmp_path / "images" / f"{i}.png", seed=i, size=(30 + i, 40)) for i in range(40)]


def refused(tmp_path, content, why):
    (tmp_path / "refused.onnx").write_bytes(content)
    with pytest.raises(ModelError, match=why) as caught:
        ExportedModel.load(tmp_path / "refused.onnx")
    assert "\n" not in str(caught.value)


def wanted(paths, threshold=0.5, **loader):
    """Scores and classes by our own loader."""
    grey = np.asarray(ImageLoader((12, 16), **loader).fit_transform(paths))[..., 0]
    scores = 1 / (1 + np.exp(-(grey.mean(axis=(1, 2)) - 127.5) / 16))
    return scores, (scores >= threshold).astype(int)


class TestScores:
    @pytest.mark.parametrize(("fit", "crop"), [("stretch", 1.0), ("pad", 0.8), ("crop", 0.6)])
    def test_the_pixels_are_those_of_image_loader(self, tmp_path, images, fit, crop):
        (tmp_path / "model.onnx").write_bytes(exported(fit=fit, crop=crop))
        model = ExportedModel.load(tmp_path / "model.onnx")
        scores, classes = wanted(images, resize=fit, crop=crop)
        np.testing.assert_allclose(model.predict_proba(images), np.column_stack([1 - scores, scores]), atol=1e-6)
        assert model.predict(images).tolist() == classes.tolist()
        assert set(classes) == ({0} if fit == "pad" else {0, 1})  # its borders are black

    def test_every_form_of_images(self, path, images):
        model = load_model(path)
        assert isinstance(model, ExportedModel)
        scores = model.predict_proba(images)
        contents = [Path(image).read_bytes() for image in images]
        series = pd.Series(images)
        for X in (contents, tuple(map(Path, images)), series, series.to_frame(), series.to_numpy()):
            assert np.array_equal(model.predict_proba(X), scores)
        pixels = np.asarray(ImageLoader((12, 16)).fit_transform(images))
        for X in (pixels, pixels[..., :1], pixels[..., 0]):
            assert np.array_equal(model.predict_proba(X), scores)
        assert model.predict([]).shape == (0,)

    def test_large_images_are_computed_one_by_one(self, path, images, monkeypatch):
        model, sizes = ExportedModel.load(path), []
        wanted, plain = model.predict_proba(images), model._run
        monkeypatch.setattr(module, "_PIXELS", 12 * 16 - 1)
        monkeypatch.setattr(model, "_run", lambda pixels: sizes.append(len(pixels)) or plain(pixels))
        np.testing.assert_allclose(model.predict_proba(images), wanted, rtol=0, atol=1e-12)
        assert sizes == [1] * len(images)

    @pytest.mark.parametrize("X", ["a.png", b"content", 3, [3], [["a", "b"]], np.zeros((2, 3, 3))])
    def test_anything_else_is_refused(self, path, X):
        with pytest.raises(InputError, match="but got"):
            ExportedModel.load(path).predict_proba(X)

    def test_images_that_were_loaded_already_are_not_cropped_again(self, path, images):
        with pytest.raises(InputError, match="loaded already"):
            ExportedModel.load(path).predict(ImageLoader((12, 16)).fit_transform(images))

    def test_facts(self, path):
        model = ExportedModel.load(path)
        assert (model.threshold, model.classes_.tolist(), model.class_names) == (0.5, [0, 1], ("normal", "pneumonia"))
        assert model.metadata["description"] == "mean of the pixels"
        assert repr(model) == "ExportedModel(threshold=0.5, precision='float32')"

    def test_all_that_cannot_be_read_are_listed(self, path, images, tmp_path):
        (tmp_path / "text.png").write_text("no image")
        with pytest.raises(ImageReadError) as caught:
            ExportedModel.load(path).predict([*images, str(tmp_path / "text.png"), b"", str(tmp_path / "gone.png")])
        assert list(caught.value.failures) == [str(tmp_path / "text.png"), "image 41", str(tmp_path / "gone.png")]
        assert caught.value.n_images == 43

    def test_an_image_without_a_score(self, tmp_path, images):
        facts = metadata()
        model = network(facts)
        model.graph.initializer[1].CopyFrom(onnx.numpy_helper.from_array(np.float32(np.nan), "scale"))
        (tmp_path / "model.onnx").write_bytes(signed(model, facts))
        model = ExportedModel.load(tmp_path / "model.onnx")
        assert {row["error"] for row in model.predict_files(images)} == {"the model gives it no score"}
        with pytest.raises(ModelError, match="gives 40 of 40 images no score"):
            model.predict(images)

    def test_a_forked_process_is_told_to_load_it_again(self, path, images):
        model = ExportedModel.load(path)
        model._process -= 1
        with pytest.raises(BackendError, match="load it again there"):
            model.predict(images)

    def test_as_a_table(self, path, images, tmp_path):
        (tmp_path / "text.png").write_text("no image")
        table = predict(ExportedModel.load(path), [*images, tmp_path / "text.png"])
        assert list(table) == ["path", "score", "decision", "threshold", "domain", "error"]
        np.testing.assert_allclose(table["score"][:40], wanted(images)[0], atol=1e-6)
        assert table["domain"].isna().all()
        assert table["error"].notna().tolist() == [False] * 40 + [True]
        assert table["score"].isna().tolist() == table["decision"].isna().tolist() == [False] * 40 + [True]


def varint(value):
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)


class TestRefusals:
    def test_a_stranger(self, tmp_path):
        facts = metadata()
        for content in (b"", b"no network", network(facts).SerializeToString()):
            refused(tmp_path, content, "is not a model that cxr_sklearn exported, or is damaged")

    def test_a_later_format(self, tmp_path):
        refused(tmp_path, exported(format=2), r"later version of cxr_sklearn \(format 2\); install that")

    def test_a_changed_weight(self, path, tmp_path):
        content = path.read_bytes()
        changed = content.replace(np.float32(127.5).tobytes(), np.float32(127.6).tobytes())
        assert changed != content
        refused(tmp_path, changed, "is damaged: its content has changed")
        refused(tmp_path, content.replace(b'"threshold": 0.5', b'"threshold": 0.4'), "is damaged: its content")

    @pytest.mark.parametrize(
        "changed",
        [
            {"format": "1"}, {"sha256": 3}, {"size": [12]}, {"size": [12, 0]}, {"size": [10_000, 5_000]}, {"crop": 0},
            {"crop": True}, {"fit": "squeeze"}, {"threshold": float("nan")}, {"threshold": -1}, {"threshold": None},
            {"threshold": 2**2000}, {"classes": ["pneumonia", "normal"]},
        ],
    )  # fmt: skip
    def test_metadata_that_no_model_has(self, tmp_path, changed):
        facts = metadata(**changed)
        refused(tmp_path, signed(network(metadata()), facts), "is not a model that cxr_sklearn exported: ")

    def test_an_operator_that_onnx_does_not_have(self, tmp_path):
        facts = metadata()
        node = helper.make_node("Foo", ["score"], ["other"], domain="my.domain")
        model = network(facts, [node], opset=[helper.make_opsetid("my.domain", 1)])
        refused(tmp_path, signed(model, facts), "has operators that are not ONNX' own")
        model = network(facts)
        model.graph.node[0].op_type = "Foo"
        refused(tmp_path, signed(model, facts), "cannot be run by ONNX Runtime: .*Foo")

    @pytest.mark.parametrize("place", ["weights", "attribute", "subgraph", "sparse", "other key", "many bytes"])
    def test_weights_in_another_file(self, tmp_path, place):
        facts, tensor = metadata(), onnx.TensorProto(name="far", data_type=1, dims=[1])
        tensor.external_data.add(key="offset" if place == "other key" else "location", value="/etc/hostname")
        graph = helper.make_graph([], "inner", [], [], [tensor])
        sparse = onnx.SparseTensorProto(values=tensor, dims=[1])
        nodes = {
            "attribute": [helper.make_node("Constant", [], ["more"], value=tensor)],
            "subgraph": [helper.make_node("Scan", ["reached"], [], body=graph)],
        }
        model = network(facts, nodes.get(place, ()))
        if place == "sparse":
            model.graph.sparse_initializer.append(sparse)
        elif not nodes.get(place):
            model.graph.initializer.append(tensor)
        if place == "many bytes":  # the field of external data, spelt with a bit that protocol buffers ignore
            written = model.graph.initializer.pop().SerializeToString()
            assert written.count(b"\x6a") == 1
            written = written.replace(b"\x6a", b"\xea\x80\x80\x80\x10")
            inside = onnx.GraphProto().SerializeToString() + b"\x2a" + bytes([len(written)]) + written
            content = signed(model, facts)
            refused(tmp_path, resigned(content + b"\x3a" + bytes([len(inside)]) + inside), "weights in another file")
        else:
            refused(tmp_path, signed(model, facts), "has weights in another file")

    def test_no_other_format_is_read(self, tmp_path, images):
        facts = metadata()
        content = b"\x08\x09\x12\x04ORTM" + signed(network(facts), facts)  # ONNX Runtime looks for this mark
        (tmp_path / "model.onnx").write_bytes(resigned(content))
        scores, _ = wanted(images)
        found = ExportedModel.load(tmp_path / "model.onnx").predict_proba(images)[:, 1]
        np.testing.assert_allclose(found, scores, atol=1e-6)

    def test_functions_and_trainings(self, tmp_path):
        facts = metadata()
        model = network(facts)
        model.functions.add(name="own")
        refused(tmp_path, signed(model, facts), "has functions of its own")
        model = network(facts)
        model.training_info.add()
        refused(tmp_path, signed(model, facts), "has steps of a training")

    def test_graphs_in_graphs_without_end(self, tmp_path):
        facts, graph = metadata(), b""
        for _ in range(2000):  # of nodes with an attribute with a graph
            for field in (b"\x32", b"\x2a", b"\x0a"):
                graph = field + varint(len(graph)) + graph
        content = signed(network(facts), facts) + b"\x3a" + varint(len(graph)) + graph
        refused(tmp_path, resigned(content), "is damaged: its network cannot be read")

    def test_a_loop_without_end(self, tmp_path, images, monkeypatch):
        refused(tmp_path, looping(), "has loops or branches, which is not allowed")
        (tmp_path / "model.onnx").write_bytes(looping())
        monkeypatch.setattr(module, "check_operators", lambda *args: None)
        monkeypatch.setattr(module, "_SECONDS", 0.1)
        with pytest.raises(ModelError, match=r"takes more than 0\.1 s for 2 images$"):
            ExportedModel.load(tmp_path / "model.onnx").predict(images[:2])

    def test_more_memory_than_is_allowed(self, tmp_path, images, monkeypatch, request):
        request.addfinalizer(_onnxruntime._limit_memory.cache_clear)
        _onnxruntime._limit_memory.cache_clear()
        for place in (_onnxruntime, module):
            monkeypatch.setattr(place, "memory_limit", lambda: 100_000_000)
        facts = metadata()
        doubled = [helper.make_node("Concat", [f"x{i}"] * 2, [f"x{i + 1}"], axis=0) for i in range(60)]
        nodes = [helper.make_node("Identity", ["pixels"], ["x0"]), *doubled]
        # Nothing is computed that no output needs.
        nodes += [helper.make_node("ReduceMean", ["x60"], ["all"], keepdims=0),
                  helper.make_node("Add", ["mean", "all"], ["both"])]  # fmt: skip
        model = network(facts, nodes)
        model.graph.node[2].input[0] = "both"
        nodes = [model.graph.node[i] for i in (0, 1, *range(8, 8 + len(nodes)), *range(2, 8))]
        nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        (tmp_path / "model.onnx").write_bytes(signed(model, facts))
        with pytest.raises(ModelError, match=r"fails on an image: it takes more than 0\.1 GB of memory$"):
            ExportedModel.load(tmp_path / "model.onnx").predict(images[:2])

    def test_a_network_of_another_kind(self, tmp_path):
        facts = metadata()
        end = helper.make_tensor_value_info
        images = end("images", TensorProto.UINT8, ["n", 12, 16])
        for inputs in (
            [end("images", TensorProto.UINT8, ["n", 16, 12])],
            [end("images", TensorProto.UINT8, [1, 12, 16])],
            [end("images", TensorProto.FLOAT, ["n", 12, 16])],
            [images, end("more", TensorProto.FLOAT, [1])],
        ):
            refused(tmp_path, signed(network(facts, inputs=inputs), facts), "does not take images alone")
        for outputs in (
            [end("score", TensorProto.DOUBLE, ["n"])],
            [end("score", TensorProto.DOUBLE, ["n"]), end("reached", TensorProto.BOOL, ["n"])],
        ):
            refused(tmp_path, signed(network(facts, outputs=outputs), facts), "does not give score and decision")

    def test_outputs_of_another_shape(self, tmp_path, images):
        facts = metadata()
        model = network(facts)
        model.graph.initializer[3].CopyFrom(onnx.numpy_helper.from_array(np.array([0, 1, 2]), "axes"))
        (tmp_path / "model.onnx").write_bytes(signed(model, facts))
        with pytest.raises(ModelError, match="outputs of shape"):
            ExportedModel.load(tmp_path / "model.onnx").predict(images)

    def test_what_is_no_file(self, tmp_path, monkeypatch):
        with pytest.raises(ModelError, match="a folder, not a file"):
            ExportedModel.load(tmp_path)
        with pytest.raises(FileNotFoundError):
            ExportedModel.load(tmp_path / "gone.onnx")
        monkeypatch.setattr(module, "MAX_BYTES", 100)
        refused(tmp_path, exported(), "more than the 100 allowed")

    def test_without_onnxruntime(self, path, monkeypatch):
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
        with pytest.raises(BackendError, match=r"pip install 'cxr-sklearn\[onnx\]'"):
            ExportedModel.load(path)


class TestCommand:
    def run(self, *arguments):
        done = CliRunner().invoke(app, list(map(str, ["predict", *arguments])))
        return done.exit_code, done.stdout, done.stderr

    def test_a_csv_table(self, path, images, tmp_path):
        (tmp_path / "images" / "text.png").write_text("no image")
        code, out, err = self.run(path, tmp_path / "images", "--csv")
        assert code == 1
        rows = list(csv.DictReader(io.StringIO(out)))
        assert list(rows[0]) == ["path", "score", "decision", "threshold", "domain", "error"]
        by_path = {row["path"]: row for row in rows}
        np.testing.assert_allclose([float(by_path[image]["score"]) for image in images], wanted(images)[0], atol=1e-6)
        assert by_path[str(tmp_path / "images" / "text.png")]["score"] == ""
        assert out == predict(load_model(path), list(by_path)).to_csv(index=False)
        assert err.count(module.NO_DOMAIN) == 1

    def test_json(self, path, images):
        code, out, _ = self.run(path, images[0], "--json")
        (row,) = json.loads(out)
        assert code == 0
        assert row["path"] == images[0]
        assert (row["threshold"], row["domain"], row["error"]) == (0.5, None, None)

    def test_a_table(self, path, images):
        code, out, _ = self.run(path, *images[:2])
        assert code == 0
        assert f"{wanted(images[:1])[0][0]:.3f}" in out

    def test_a_refusal_is_one_line(self, tmp_path, images):
        (tmp_path / "model.onnx").write_bytes(exported(format=2))
        code, out, err = self.run(tmp_path / "model.onnx", images[0])
        assert (code, out, err.count("\n")) == (1, "", 1)
        assert "later version" in err

    def test_other_commands_refuse_it(self, path, images, tmp_path):
        done = CliRunner().invoke(app, ["explain", str(path), images[0], "-o", str(tmp_path / "heat.png")])
        assert done.exit_code == 1
        assert "an exported model can predict and be served, but nothing else" in done.stderr

    def test_nothing_heavy_is_imported(self, path, images):
        code = (
            "import sys; from cxr_sklearn.cli import app\n"
            f"try: app(['predict', {str(path)!r}, {images[0]!r}, '--csv'])\n"
            f"except SystemExit as end: print(end.code, [name for name in {HEAVY} if name in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "0 []"


def test_the_digits_of_the_digest_stand_once_in_a_file():
    content = exported()
    assert ZEROS.encode() not in content
    assert resigned(content) == content
