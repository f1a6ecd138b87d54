"""The served model: the scores of files, nothing on the disk, nothing for other sites, and no server error."""

import base64
import io
import os
import runpy
import socket
import sys
import tempfile
import threading
import warnings
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from typer.testing import CliRunner

from cxr_sklearn import DomainDetector, ImageLoader, save, write_radiographs
from cxr_sklearn.evaluation.calibration import _fit, calibrated
from cxr_sklearn.exceptions import ModelError
from cxr_sklearn.persistence import load_model
from cxr_sklearn.prediction import predict
from cxr_sklearn.recipes import load_recipe

from .conftest import ROOT

pytest.importorskip("fastapi")
with warnings.catch_warnings():  # Starlette would rather have httpx2, which it alone needs
    warnings.simplefilter("ignore")
    from fastapi.testclient import TestClient

from cxr_sklearn.cli import app as cli
from cxr_sklearn.serve import scoring, uploads
from cxr_sklearn.serve.app import NOTICE, create_app

ADDRESS = "http://127.0.0.1:8000"
BENCHMARK = runpy.run_path(str(ROOT / "benchmarks" / "serve.py"))


def flat(images):
    pixels = np.asarray(images)[..., 0] / 255
    return pixels.reshape(len(pixels), -1)


def pixel_pipeline(frame, size=32, resize="stretch"):
    """The smallest pipeline that looks at pixels and can be saved as .skops is a network; .joblib takes this one."""
    flatten = FunctionTransformer(flat)
    return make_pipeline(ImageLoader(size, resize), flatten, PCA(8, random_state=0), LogisticRegression()).fit(
        frame["path"], frame["target"]
    )


@pytest.fixture(scope="module")
def frame(tmp_path_factory):
    """JPEGs so large that the decoder takes its short cuts."""
    return write_radiographs(tmp_path_factory.mktemp("radiographs"), 12, size=160, random_state=0)


@pytest.fixture(scope="module")
def model_path(frame, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.joblib"
    domain = DomainDetector(None).fit(frame["path"])
    save(pixel_pipeline(frame), path, domain=domain, threshold=0.4, recipe="pixels", best_params={"w": "/home/me/w.h5"})
    return path


@pytest.fixture(scope="module")
def model(model_path):
    return load_model(model_path, trusted=True, store=None)


@pytest.fixture(scope="module")
def client(model):
    return TestClient(create_app(model), base_url=ADDRESS)


def ask(client, *named, **options):
    files = [("files", part) for part in named]
    return client.post("/predict", files=files, params=options)


def answers(client, *named, **options):
    response = ask(client, *named, **options)
    assert response.status_code == 200, response.text
    return response.json()["results"]


def encoded(pixels, format="PNG", **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format, **options)
    return file.getvalue()


def image_of(data_url):
    return Image.open(io.BytesIO(base64.b64decode(data_url.split(",")[1])))


def lying_jpeg():
    """100 wide and 300 high for a viewer that minds the EXIF orientation, as every one does."""
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.zeros((100, 300), dtype=np.uint8)
    pixels[:, :150] = 200
    return encoded(pixels, "JPEG", exif=exif)


def assert_same_scores(model, frame, tolerance):
    client = TestClient(create_app(model), base_url=ADDRESS)
    for path in frame["path"].iloc[:8]:
        (expected,) = predict(model, [path], store=None).to_dict("records")
        (found,) = answers(client, ("a.jpeg", Path(path).read_bytes()))
        assert abs(found["score"] - expected["score"]) <= tolerance
        assert (found["decision"], found["domain"]) == (expected["decision"], expected["domain"])


@pytest.mark.parametrize("resize", ["stretch", "pad", "crop"])
def test_scores_are_those_of_the_file_to_the_last_bit(frame, model, resize):
    pipeline = pixel_pipeline(frame, size=(24, 36), resize=resize)
    assert_same_scores(model._replace(pipeline=pipeline), frame, 0)


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
    pipeline = calibrated(model.pipeline, _fit(scores, "sigmoid"))
    assert_same_scores(model._replace(pipeline=pipeline), frame, 0)


def test_a_pipeline_that_measures_the_original_gets_it(frame, model):
    recipe = load_recipe("shortcuts").build(store=None).fit(frame["path"], frame["target"])
    assert_same_scores(model._replace(pipeline=recipe), frame, 1e-9)
    scaler = recipe.named_steps["scale"]
    wide = encoded(np.random.default_rng(0).integers(0, 256, (90, 270), dtype=np.uint8))
    seen = []
    scaler.transform, original = lambda X: seen.append(X) or original(X), scaler.transform
    answers(TestClient(create_app(model._replace(pipeline=recipe)), base_url=ADDRESS), ("wide.png", wide))
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


def test_what_is_no_radiograph_is_out_of_the_domain(client):
    assert answers(client, ("black.png", encoded(np.zeros((64, 64), np.uint8))))[0]["domain"] == "out"


def test_a_model_without_a_detector_says_that_it_cannot_tell(model, frame):
    client = TestClient(create_app(model._replace(domain=None)), base_url=ADDRESS)
    assert answers(client, ("a.png", encoded(np.zeros((64, 64), np.uint8))))[0]["domain"] is None
    assert client.get("/model").json()["tells_domain"] is False


def test_heat_is_the_opacity_of_a_png(client, model, monkeypatch):
    seen = []

    def explain(pipeline, X):
        seen.append(X)
        return np.linspace(0, 1, 32 * 32, dtype=np.float32).reshape(1, 32, 32)

    monkeypatch.setattr(scoring, "explain", explain)
    content = encoded(np.arange(64 * 64, dtype=np.uint16).reshape(64, 64))
    (found,) = answers(client, ("a.png", content), heat=True)
    heat = np.asarray(image_of(found["heat"]))
    assert heat.shape == (32, 32, 4)
    assert (heat[0, 0, 3], heat[-1, -1, 3]) == (0, 255)
    assert np.array_equal(seen[0], ImageLoader(32)._decoding()(content)[None])


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
    padded = TestClient(create_app(model._replace(pipeline=pixel_pipeline(frame, 32, "pad"))), base_url=ADDRESS)
    assert image_of(answers(padded, ("a.tiff", tiff), picture=True)[0]["picture"]).size == (640, 640)


def test_nothing_is_written(client, frame, monkeypatch, tmp_path):
    small = Path(frame["path"][0]).read_bytes()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("TemporaryFile", "NamedTemporaryFile", "SpooledTemporaryFile", "mkstemp", "mkdtemp"):
        monkeypatch.setattr(tempfile, name, None)
    written = []
    opened = os.open
    monkeypatch.setattr(
        os, "open", lambda path, flags, *rest, **kw: written.append(path) if flags & (os.O_WRONLY | os.O_RDWR)
        else opened(path, flags, *rest, **kw),
    )  # fmt: skip
    big = encoded(np.random.default_rng(0).integers(0, 256, (2000, 2000), dtype=np.uint8))
    assert len(big) > 1_000_000  # where Starlette would go to the disk
    found = answers(client, ("big.png", big), ("a.jpeg", small), heat=True, picture=True)
    assert [answer["error"] for answer in found] == [None, None]
    assert written == []
    assert list(tmp_path.iterdir()) == []


def read_by_the_server(monkeypatch):
    """Numbers of bytes that the parser was given."""
    read = []
    write = uploads.MultipartParser.write
    monkeypatch.setattr(
        uploads.MultipartParser, "write", lambda parser, data: read.append(len(data)) or write(parser, data)
    )
    return read


def body_of(parts, size=65_536):
    """A multipart body in pieces, as a client sends it."""
    for name, n_bytes in parts:
        yield f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
        for start in range(0, n_bytes, size):
            yield b"\0" * min(size, n_bytes - start)
        yield b"\r\n"
    yield b"--x--\r\n"


FORM = {"Content-Type": "multipart/form-data; boundary=x"}


def stream(client, parts):
    return client.post("/predict", content=body_of(parts), headers=FORM)


def test_a_file_too_large_is_refused_and_the_rest_is_not_read(model, monkeypatch):
    """Past the limit the server reads no more, whatever is still to come."""
    import anyio

    application = create_app(model)
    sent, n_taken = [], 0
    pieces = body_of([("large.png", 2 * uploads.MAX_BYTES)])

    async def receive():
        nonlocal n_taken
        n_taken += 1
        return {"type": "http.request", "body": next(pieces), "more_body": True}

    async def send(message):
        sent.append(message)

    headers = [(b"host", b"127.0.0.1"), (b"content-type", FORM["Content-Type"].encode())]
    scope = {"type": "http", "method": "POST", "path": "/predict", "raw_path": b"/predict", "query_string": b"",
             "headers": headers, "root_path": "", "scheme": "http", "http_version": "1.1"}  # fmt: skip
    anyio.run(application, scope, receive, send)
    assert sent[0]["status"] == 413
    assert b"large.png has more than the 50,000,000 bytes allowed" in sent[1]["body"]
    assert n_taken == pytest.approx(uploads.MAX_BYTES / 65_536, abs=3)


def test_a_file_of_the_largest_size_is_taken(client):
    assert stream(client, [("a.png", uploads.MAX_BYTES)]).json()["results"][0]["error"]
    assert stream(client, [("a.png", uploads.MAX_BYTES + 1)]).status_code == 413


def test_a_request_too_large_is_refused_by_its_header(client, monkeypatch):
    read = read_by_the_server(monkeypatch)
    response = client.post("/predict", content=b"", headers=FORM | {"Content-Length": "2000000000"})
    assert response.status_code == 413
    assert read == []


def test_25_files_are_taken_and_26_are_not(client):
    assert len(stream(client, [("a.png", 0)] * 25).json()["results"]) == 25
    response = stream(client, [("a.png", 0)] * 26)
    assert response.status_code == 413
    assert response.json()["detail"] == "more than 25 files; send them in several requests"


@pytest.mark.parametrize(
    ("body", "headers", "status", "words"),
    [
        (b"{}", {"Content-Type": "application/json"}, 415, "send the images as multipart/form-data"),
        (b"", {}, 415, "parts named files"),
        (b"", FORM, 400, "cut short"),
        (b"--x--\r\n", FORM, 400, "files"),
        (b"nonsense", FORM, 400, "not well-formed"),
        (b"--x\r\nContent-Disposition: form-data; name=\"files\"\r\n\r\nab", FORM, 400, "cut short"),
        (b"--x\r\nContent-Disposition: form-data; name=\"image\"\r\n\r\nab\r\n--x--\r\n", FORM, 400, "another name"),
        (b"--x\r\n\r\nab\r\n--x--\r\n", FORM, 400, "another name"),
    ],
)  # fmt: skip
def test_what_is_no_upload_is_refused(client, body, headers, status, words):
    response = client.post("/predict", content=body, headers=headers)
    assert response.status_code == status
    assert words in response.json()["detail"]


@pytest.mark.parametrize(
    ("sent", "told"),
    [("../../etc/passwd", "passwd"), (r"C:\scans\a.png", "a.png"), ("Röntgen.png", "Röntgen.png"), ("", "unnamed")],
)
def test_names_are_told_without_folders(client, sent, told):
    body = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{sent}"\r\n\r\n\r\n--x--\r\n'.encode()
    assert client.post("/predict", content=body, headers=FORM).json()["results"][0]["filename"] == told


def test_other_sites_get_nothing(client):
    for host in ("evil.example", "127.0.0.1.evil.example", "testserver", "192.168.0.1:8000"):
        assert client.get("/", headers={"Host": host}).status_code == 400
    for origin in ("http://evil.example", "null", "https://127.0.0.1:8000", "http://127.0.0.1:8001"):
        response = client.post("/predict", files={"files": b""}, headers={"Origin": origin})
        assert response.status_code == 403
        assert "access-control-allow-origin" not in response.headers
    for address in ("127.0.0.1:8000", "localhost:8000"):
        headers = {"Host": address, "Origin": f"http://{address}"}
        assert client.post("/predict", files={"files": b""}, headers=headers).status_code == 200


@pytest.mark.parametrize("path", ["/", "/model", "/openapi.json", "/predict", "/nothing"])
def test_every_answer_tells_the_browser_to_keep_to_this_server(client, path):
    response = client.get(path)
    policy = response.headers["content-security-policy"]
    assert policy.startswith("default-src 'self'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert "http" not in policy
    assert "set-cookie" not in response.headers
    assert response.headers["cache-control"] == "no-store"


def test_no_page_loads_scripts_from_elsewhere(client):
    assert client.get("/docs").status_code == client.get("/redoc").status_code == 404
    assert "://" not in client.get("/").text


def test_what_is_told_of_the_model_holds_no_path(client, model):
    facts = client.get("/model")
    assert facts.json()["recipe"] == "pixels"
    assert facts.json()["classes"] == [0, 1]
    assert facts.json()["explains"] is True
    assert "/home" not in facts.text


def test_a_model_that_fails_says_so(model, monkeypatch):
    client = TestClient(create_app(model), base_url=ADDRESS, raise_server_exceptions=False)
    monkeypatch.setattr(scoring.Scorer, "_score", lambda *given: 1 / 0)
    response = ask(client, ("a.png", encoded(np.zeros((9, 9), np.uint8))))
    assert response.status_code == 500
    assert "the model failed" in response.json()["detail"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # those of a test tool's own parts
@pytest.mark.parametrize(("mode", "n"), [("POSITIVE", 60), ("NEGATIVE", 40)])
def test_no_request_that_the_schema_tells_of_brings_about_a_server_error(client, mode, n):
    """Requests that fit the schema, and those that do not; every answer has a status and a form that it tells of."""
    import hypothesis
    import schemathesis
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

    checks = [not_a_server_error, response_schema_conformance, status_code_conformance]
    own = {"Host": "127.0.0.1"}
    schema = schemathesis.openapi.from_asgi("/openapi.json", client.app, headers=own)
    cases = schema["/predict"]["POST"].as_strategy(generation_mode=schemathesis.GenerationMode[mode])
    seen = set()

    @hypothesis.settings(max_examples=n, deadline=None, database=None, derandomize=True,
                         suppress_health_check=list(hypothesis.HealthCheck))  # fmt: skip
    @hypothesis.given(case=cases)
    def ask_for(case):
        response = case.call(headers=own)
        seen.add(response.status_code)
        case.validate_response(response, checks=checks)

    ask_for()
    assert seen & ({200} if mode == "POSITIVE" else {400, 415, 422})


def test_eight_clients_at_once_get_their_own_answers(model, frame):
    client = TestClient(create_app(model), base_url=ADDRESS)
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


@pytest.mark.slow
def test_a_real_client_learns_that_its_file_is_too_large(model_path):
    with BENCHMARK["serving"](model_path) as address, httpx.Client(base_url=address, timeout=60) as client:
        response = client.post("predict", content=body_of([("a.png", uploads.MAX_BYTES + 10_000_000)]), headers=FORM)
        assert response.status_code == 413
        assert client.get("model").status_code == 200  # it goes on


def run_serve(*arguments):
    return CliRunner().invoke(cli, ["serve", *map(str, arguments)])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing.skops"], "No such file"),
        ([__file__], "is not a model that cxr_sklearn saved"),
    ],
)
def test_what_cannot_be_served_is_told_in_one_line(arguments, words):
    done = run_serve(*arguments, "--port", 0)
    assert done.exit_code == 1
    assert done.stderr.startswith("cxr-sklearn: ")
    assert done.stderr.count("\n") == 1
    assert words in done.stderr


def test_a_stranger_s_code_is_not_run(model_path):
    done = run_serve(model_path, "--port", 0)
    assert done.exit_code == 1
    assert "--trust" in done.stderr


def test_a_port_in_use_is_told(model_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run_serve(model_path, "--trust", "--port", taken.getsockname()[1])
    assert done.exit_code == 1
    assert "choose another with --port" in done.stderr


def test_a_missing_library_is_told(model_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    done = run_serve(model_path, "--trust")
    assert done.exit_code == 1
    assert "pip install 'cxr-sklearn[serve]'" in done.stderr


def test_it_binds_this_machine_and_prints_where(model_path, monkeypatch):
    bound = []
    monkeypatch.setattr("uvicorn.Server.run", lambda server, sockets: bound.append(sockets[0].getsockname()))
    done = run_serve(model_path, "--trust", "--port", 0)
    assert done.exit_code == 0, done.output
    assert bound[0][0] == "127.0.0.1"
    assert f"http://127.0.0.1:{bound[0][1]}/" in done.stdout


def test_a_model_that_takes_only_files_is_not_served(frame, model):
    class OnlyFiles(FunctionTransformer):
        def transform(self, X):
            raise ValueError("not a path")

    pipeline = make_pipeline(OnlyFiles(), LogisticRegression().fit([[0], [1]], [0, 1]))
    with pytest.raises(ModelError, match="cannot score images that are no files: ValueError: not a path"):
        create_app(model._replace(pipeline=pipeline))
