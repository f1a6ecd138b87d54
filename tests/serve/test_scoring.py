"""The answer for a file: the same score as from its path, its picture, and its heat map."""

import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from cxr_sklearn import DomainDetector
from cxr_sklearn.exceptions import ModelError
from cxr_sklearn.models.calibration import fit_calibrator
from cxr_sklearn.models.prediction import predict
from cxr_sklearn.study.recipes import load_recipe

from .conftest import BENCHMARK, answers, ask, changed, client_of, encoded, image_of, lying_jpeg, pixel_pipeline

pytest.importorskip("fastapi")

from cxr_sklearn.serve import scoring
from cxr_sklearn.serve.app import NOTICE


def assert_same_scores(model, frame):
    client = client_of(model)
    for path in frame["path"].iloc[:8]:
        (expected,) = predict(model, [path], store=None).to_dict("records")
        (found,) = answers(client, ("a.jpeg", Path(path).read_bytes()))
        for name in ("score", "decision", "domain"):
            assert found[name] == expected[name]


@pytest.mark.parametrize("crop", [1.0, 0.7])
@pytest.mark.parametrize("resize", ["stretch", "pad", "crop"])
def test_scores_are_those_of_the_file_to_the_last_bit(frame, model, resize, crop):
    pipeline = pixel_pipeline(frame, (24, 36), resize, crop)
    domain = DomainDetector(None, crop).fit(frame["path"], groups=frame["patient"])
    assert_same_scores(changed(model, pipeline=pipeline, domain=domain), frame)


def dicom():
    data = pytest.importorskip("pydicom.data")
    return Path(data.get_testdata_file("CT_small.dcm", download=False)).read_bytes()


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("a.dcm", dicom),
        ("deep.png", lambda: encoded(np.arange(90 * 70, dtype=np.uint16).reshape(90, 70) // 2)),
        ("deep.tiff", lambda: encoded(np.arange(90 * 70, dtype=np.uint16).reshape(90, 70) // 2, "TIFF")),
        ("colour.webp", lambda: encoded(np.arange(90 * 70 * 3).reshape(90, 70, 3).astype(np.uint8), "WEBP")),
        ("lying.jpeg", lying_jpeg),
    ],
)
def test_every_kind_of_file_is_scored_and_shown(model, client, tmp_path, name, make):
    content = make()
    (tmp_path / name).write_bytes(content)
    (expected,) = predict(model, [str(tmp_path / name)], store=None).to_dict("records")
    (found,) = answers(client, (name, content), picture=True)
    assert (found["score"], found["domain"]) == (expected["score"], expected["domain"])
    assert image_of(found["picture"]).mode == "L"


def test_a_calibrated_pipeline_is_served_as_well(frame, model):
    scores = frame.assign(score=model.pipeline.predict_proba(frame["path"])[:, 1])
    assert_same_scores(changed(model, calibrator=fit_calibrator(scores, "sigmoid")), frame)


def large_jpegs(folder):
    """JPEGs that are decoded at a quarter of their size to be measured; one of them lies on its side."""
    rng = np.random.default_rng(0)
    for i in range(12):
        exif = Image.Exif()
        exif[0x0112] = 6 if i == 0 else 1
        image = Image.fromarray(rng.integers(0, 256, (120, 150 + i), dtype=np.uint8)).resize((1500 + i, 1200))
        image.save(folder / f"{i}.jpeg", exif=exif)
    return [str(folder / f"{i}.jpeg") for i in range(12)]


@pytest.mark.parametrize("is_calibrated", [False, True])
def test_a_pipeline_that_measures_files_gives_the_scores_of_the_files(model, tmp_path, is_calibrated):
    frame = pd.DataFrame({"path": large_jpegs(tmp_path), "target": [0, 1] * 6})
    pipeline = load_recipe("shortcuts").build(store=None).fit(frame["path"], frame["target"])
    scores = frame.assign(score=pipeline.predict_proba(frame["path"])[:, 1])
    calibrator = fit_calibrator(scores, "sigmoid") if is_calibrated else None
    assert_same_scores(changed(model, pipeline=pipeline, calibrator=calibrator), frame)
    pixels = np.asarray(Image.open(frame["path"][1]))
    assert pipeline.predict_proba(pixels[None])[0, 1] != pipeline.predict_proba(frame["path"][1:2])[0, 1]


def test_a_pipeline_that_measures_files_gets_their_size(frame, model):
    recipe = load_recipe("shortcuts").build(store=None).fit(frame["path"], frame["target"])
    scaler = recipe.named_steps["scale"]
    wide = encoded(np.random.default_rng(0).integers(0, 256, (90, 270), dtype=np.uint8))
    seen = []
    scaler.transform, original = lambda X: seen.append(X) or original(X), scaler.transform
    answers(client_of(changed(model, pipeline=recipe)), ("wide.png", wide))
    assert seen[-1][0, :3].tolist() == [270, 90, 3]


def test_many_files_one_of_them_unreadable(client, frame):
    content = Path(frame["path"][0]).read_bytes()
    first, second, third = answers(client, ("a.jpeg", content), ("notes.txt", b"hello"), ("b.jpeg", content))
    assert first["score"] == third["score"]
    assert (first["filename"], third["filename"]) == ("a.jpeg", "b.jpeg")
    assert first["threshold"] == 0.4
    assert second["error"] == "not a JPEG, PNG, TIFF, BMP, WEBP or DICOM image"
    assert second["score"] is second["decision"] is second["domain"] is None
    assert first["heat"] is first["picture"] is None
    assert ask(client, ("notes.txt", b"hello")).json()["notice"] == NOTICE


def test_other_pictures_are_out_of_the_domain(client):
    assert answers(client, ("black.png", encoded(np.zeros((64, 64), np.uint8))))[0]["domain"] == "out"


def test_a_model_without_a_detector_says_that_it_cannot_tell(model, frame):
    client = client_of(changed(model, domain=None))
    assert answers(client, ("a.png", encoded(np.zeros((64, 64), np.uint8))))[0]["domain"] is None
    assert client.get("/model").json()["tells_domain"] is False


def test_heat_is_the_opacity_of_a_png(client, model, monkeypatch):
    seen = []

    def explain(pipeline, X):
        seen.append(X)
        return np.linspace(0, 1, 32 * 32, dtype=np.float32).reshape(1, 32, 32)

    monkeypatch.setattr("cxr_sklearn.models.explain.explain", explain)
    content = encoded(np.arange(64 * 64, dtype=np.uint16).reshape(64, 64))
    (found,) = answers(client, ("a.png", content), heat=True)
    heat = np.asarray(image_of(found["heat"]))
    assert heat.shape == (32, 32, 4)
    assert (heat[0, 0, 3], heat[-1, -1, 3]) == (0, 255)
    assert seen[0] == [content]


def test_a_heat_map_of_a_real_explanation(client, frame):
    (found,) = answers(client, ("a.jpeg", Path(frame["path"][0]).read_bytes()), heat=True)
    assert np.asarray(image_of(found["heat"]))[..., 3].max() == 255


def test_pictures_are_upright_and_of_what_the_model_takes(client, frame, model):
    (found,) = answers(client, ("lying.jpeg", lying_jpeg()), picture=True)
    shown = image_of(found["picture"])
    assert shown.size == (100, 300)
    assert np.asarray(shown)[:150].mean() > 190
    assert np.asarray(shown)[150:].mean() < 10
    tiff = encoded(np.zeros((2000, 1000), np.uint8), "TIFF")
    assert image_of(answers(client, ("a.tiff", tiff), picture=True)[0]["picture"]).size == (320, 640)
    padded = client_of(changed(model, pipeline=pixel_pipeline(frame, 32, "pad")))
    assert image_of(answers(padded, ("a.tiff", tiff), picture=True)[0]["picture"]).size == (640, 640)


def test_the_picture_is_of_the_part_that_the_model_looks_at(frame, model):
    pipeline = pixel_pipeline(frame, crop=0.5)
    framed = np.zeros((200, 400), np.uint8)
    framed[50:150, 100:300] = 200
    client = client_of(changed(model, pipeline=pipeline))
    shown = image_of(answers(client, ("a.png", encoded(framed)), picture=True)[0]["picture"])
    assert shown.size == (200, 100)
    assert np.asarray(shown).min() > 190


def test_eight_clients_at_once_get_their_own_answers(model, frame):
    client = client_of(model)
    paths = frame["path"].iloc[:8]
    contents = [Path(path).read_bytes() for path in paths]
    expected = [predict(model, [path], store=None)["score"].iloc[0] for path in paths]
    found = {}

    def work(i):
        found[i] = [answers(client, (f"{i}.jpeg", contents[i]))[0]["score"] for _ in range(5)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {i: [expected[i]] * 5 for i in range(8)}


@pytest.mark.slow
def test_a_server_under_load_gives_every_client_its_own_right_answers(model_path, frame):
    paths = [Path(path) for path in frame["path"].iloc[:8]]
    expected = BENCHMARK["expected_scores"](model_path, paths)
    with BENCHMARK["serving"](model_path) as address:
        counts = BENCHMARK["load"](address, paths, expected, n_clients=8, seconds=2)
        wrong = BENCHMARK["load"](address, paths, [score / 2 for score in expected], n_clients=2, seconds=0.1)
    assert counts["requests"] == counts["right"] >= 16
    assert wrong["wrong"] == wrong["requests"] > 0


def test_a_model_that_takes_only_files_is_not_served(frame, model):
    class OnlyFiles(FunctionTransformer):
        def transform(self, X):
            raise ValueError("not a path")

    pipeline = make_pipeline(OnlyFiles(), LogisticRegression().fit([[0], [1]], [0, 1]))
    with pytest.raises(ModelError, match="cannot score images that are not files: ValueError: not a path"):
        scoring.Scorer(changed(model, pipeline=pipeline))
