"""The served model: its page and its command; nothing goes to the disk or to other sites."""

import json
import os
import socket
import subprocess
import sys

import httpx
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from typer.testing import CliRunner

from cxr_sklearn import CXRModel, DomainDetector, FrozenEmbedder, ImageLoader, save_model
from cxr_sklearn.cli import app as cli

from ..conftest import ROOT
from .conftest import BENCHMARK, FORM, ask, changed, client_of, encoded, flat

pytest.importorskip("fastapi")


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


def test_facts_about_the_model_contain_no_path(client, model):
    facts = client.get("/model")
    assert facts.json()["recipe"] == "pixels"
    assert facts.json()["classes"] == [0, 1]
    assert facts.json()["explains"] is True
    assert "/home" not in facts.text


class FailsOnWhite(LogisticRegression):
    def predict_proba(self, X):
        if np.min(X) == 1:
            raise ZeroDivisionError("too white")
        return super().predict_proba(X)


def failing_pipeline(frame):
    steps = ImageLoader(8), FunctionTransformer(flat), FailsOnWhite()
    return make_pipeline(*steps).fit(frame["path"], frame["target"])


WHITE = encoded(np.full((9, 9), 255, np.uint8))


def test_a_model_that_fails_says_so_and_goes_on(frame, model):
    client = client_of(changed(model, pipeline=failing_pipeline(frame)), raise_server_exceptions=False)
    response = ask(client, ("white.png", WHITE))
    assert response.status_code == 500
    assert response.json()["detail"].startswith("the model failed on an image")
    kept = {name: value for name, value in client.get("/").headers.items() if not name.startswith("content-")}
    kept["content-security-policy"] = client.get("/").headers["content-security-policy"]
    assert len(kept) == 5
    assert kept.items() <= response.headers.items()
    assert ask(client, ("black.png", encoded(np.zeros((9, 9), np.uint8)))).status_code == 200


def test_the_schema_tells_of_every_refusal(client):
    told = client.get("/openapi.json").json()["paths"]["/predict"]["post"]["responses"]
    assert sorted(told) == ["200", "400", "403", "413", "415", "422", "500"]
    for status in ("400", "403", "413", "415", "500"):
        assert told[status]["content"]["application/json"]["schema"]["$ref"].endswith("/Problem")


@pytest.mark.slow
def test_the_terminal_tells_of_a_model_that_fails_and_not_of_what_clients_send(frame, tmp_path, capfd):
    save_model(failing_pipeline(frame), tmp_path / "model.joblib")
    part = b'--x\r\nContent-Disposition: form-data; name="files"\r\n\r\nab\r\n'
    with BENCHMARK["serving"](tmp_path / "model.joblib") as address, httpx.Client(base_url=address) as client:
        for body in (b"nonsense", b"--x\r\n\xff: \r\n", b"--x\r\n: a\r\n", part, part + b"--x--\r\nand more"):
            assert client.post("predict", content=body, headers=FORM).status_code in (200, 400)
        said = capfd.readouterr().err
        assert ask(client, ("white.png", WHITE)).status_code == 500
    assert said == ""
    assert "ZeroDivisionError: too white" in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # warnings of the test tool itself
@pytest.mark.parametrize(("mode", "n"), [("POSITIVE", 60), ("NEGATIVE", 40)])
def test_no_request_that_the_schema_tells_of_brings_about_a_server_error(client, mode, n):
    """Requests that fit the schema and others; every answer has a status and a form that the schema documents."""
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


@pytest.fixture
def embedder_path(frame, tmp_path):
    """A model with a network, whose features a store would keep."""
    embedder = FrozenEmbedder("MobileNet", weights="random", precision="float32", store=None)
    pipeline = make_pipeline(ImageLoader(32), embedder, StandardScaler(), LogisticRegression())
    path = tmp_path / "model.skops"
    domain = DomainDetector(None).fit(frame["path"])
    save_model(CXRModel(pipeline.fit(frame["path"], frame["target"]), domain=domain), path)
    return path


@pytest.mark.parametrize(
    "kind", ["model_path", pytest.param("embedder_path", marks=[pytest.mark.keras, pytest.mark.slow])]
)
def test_nothing_is_written(request, kind, frame, tmp_path):
    """Neither by Python, whose writes are all watched, nor by libraries below it in the folders that they use."""
    big = tmp_path / "big.png"
    big.write_bytes(encoded(np.random.default_rng(0).integers(0, 256, (2000, 2000), dtype=np.uint8)))
    assert big.stat().st_size > 1_000_000  # the size at which Starlette would write to the disk
    (tmp_path / "notes.txt").write_text("hello")
    images = [big, frame["path"][0], tmp_path / "notes.txt"]
    home = tmp_path / "home"
    home.mkdir()
    places = {name: str(home) for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME", "CXR_SKLEARN_CACHE")}
    command = [sys.executable, "-m", "tests.serve.watched", request.getfixturevalue(kind), home, *images]
    environment = os.environ | places | {"PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert [answer["error"] is None for answer in found["answers"]] == [True, True, False]
    assert all(found["answers"][0][name] for name in ("heat", "picture"))
    assert found["written"] == found["changed"] == []
    databases = "descriptors-" if kind == "model_path" else "MobileNet-"
    assert any(databases in event for event in found["with_a_store"])
    assert found["changed_with_a_store"] > 0


def run_serve(*arguments):
    return CliRunner().invoke(cli, ["serve", *map(str, arguments)])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing.skops"], "No such file"),
        ([__file__], "is not a model that cxr_sklearn saved"),
    ],
)
def test_what_cannot_be_served_gives_one_line(arguments, words):
    done = run_serve(*arguments, "--port", 0)
    assert done.exit_code == 1
    assert done.stderr.startswith("cxr-sklearn: ")
    assert done.stderr.count("\n") == 1
    assert words in done.stderr


def test_a_stranger_s_code_is_not_run(model_path):
    done = run_serve(model_path, "--port", 0)
    assert done.exit_code == 1
    assert "--trust" in done.stderr


def test_a_port_in_use_is_reported(model_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run_serve(model_path, "--trust", "--port", taken.getsockname()[1])
    assert done.exit_code == 1
    assert "choose another with --port" in done.stderr


def test_a_missing_library_is_reported(model_path, monkeypatch):
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
