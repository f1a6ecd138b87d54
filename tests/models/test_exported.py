"""Exported models: what is read, what is refused, and that nothing heavy is imported for it."""

import csv
import io
import json
import multiprocessing
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from cxr_sklearn import ExportedModel, ImageLoader, load_model, predict
from cxr_sklearn.cli import app
from cxr_sklearn.exceptions import BackendError, ImageReadError, InputError, ModelError
from cxr_sklearn.models import exported as module

from ..conftest import write_image

pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper  # noqa: E402

from .exported import ZEROS, exported, metadata, network, resigned, save_external, signed  # noqa: E402

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
        refused(tmp_path, signed(model, facts), "cannot be run by ONNX Runtime: .*my.domain")

    @pytest.mark.parametrize("spelling", [b"\n\x08", b"\n\x88\x00", b"\x8a\x00\x08", b"\x8a\x80\x00\x88\x80\x80\x00"])
    def test_weights_in_another_file(self, tmp_path, spelling):
        facts = metadata()
        model = network(facts)
        save_external(model)
        content = signed(model, facts)
        assert content.count(b"\n\x08location") == 1
        module._check_alone(content.replace(b"\n\x08location", b"\n\x08elsewhere"), path)
        with pytest.raises(ModelError, match="has weights in another file"):
            module._check_alone(content.replace(b"\n\x08location", spelling + b"location"), path)
        refused(tmp_path, content, "has weights in another file")

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


def mutated(number, content):
    """Return damaged bytes; every second file has the digest that belongs to them."""
    rng = np.random.default_rng(number)
    content = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        kind, at = rng.integers(4), int(rng.integers(len(content)))
        if kind == 0:
            content[at] = rng.integers(256)
        elif kind == 1:
            content[at] ^= 1 << int(rng.integers(8))
        elif kind == 2:
            del content[at : at + int(rng.integers(1, 9))]
        else:
            start = int(rng.integers(len(content)))
            content[at:at] = content[start : start + int(rng.integers(1, 30))]
    return resigned(bytes(content)) if number % 2 else bytes(content)


def try_all(numbers, folder):
    """Read mutated files, and write which were read, refused or worse."""
    content, pixels = exported(), np.zeros((2, 12, 16), dtype=np.uint8)
    file = folder / "mutated.onnx"
    with (folder / "log").open("a") as log:
        for number in numbers:
            file.write_bytes(mutated(number, content))
            print(number, end=" ", file=log, flush=True)
            try:
                model = ExportedModel.load(file)
                model.predict_proba(pixels)
                print("read", file=log, flush=True)
            except ModelError as error:
                print("refused" if "\n" not in str(error) else f"lines: {error!r}", file=log, flush=True)
            except BaseException as error:  # noqa: BLE001 - that is what we look for
                print(f"raised {error!r}", file=log, flush=True)


@pytest.mark.slow
def test_mutated_files_are_read_or_refused(tmp_path):
    child = multiprocessing.get_context("spawn").Process(target=try_all, args=(range(2000), tmp_path))
    child.start()
    child.join(500)
    found = [line.split(" ", 1)[-1] for line in (tmp_path / "log").read_text().splitlines()]
    assert child.exitcode == 0, (tmp_path / "log").read_text()[-200:]
    assert len(found) == 2000
    assert set(found) == {"read", "refused"}, set(found)
    assert found.count("read") > 20


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
