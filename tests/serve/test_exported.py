"""An exported model behind the page: scores, no heat maps, no check of the domain, and no heavy imports."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

from cxr_sklearn import ExportedModel

from ..conftest import write_image
from ..models.exported import exported
from ..models.test_exported import HEAVY, wanted
from .conftest import answers, client_of, image_of


@pytest.fixture
def path(tmp_path):
    (tmp_path / "model.onnx").write_bytes(exported(threshold=0.4))
    return tmp_path / "model.onnx"


def test_scores_without_heat_or_domain(path, tmp_path):
    files = [write_image(tmp_path / f"{i}.png", seed=i, size=(30, 40)) for i in range(3)]
    client = client_of(ExportedModel.load(path))
    named = [(f"{i}.png", Path(file).read_bytes()) for i, file in enumerate(files)]
    *found, bad = answers(client, *named, ("bad.png", b"no image"), heat=True, picture=True)
    scores, classes = wanted(files, threshold=0.4)
    assert [answer["score"] for answer in found] == pytest.approx(scores.tolist(), abs=1e-6)
    assert [answer["decision"] == "pneumonia" for answer in found] == classes.astype(bool).tolist()
    assert {(answer["heat"], answer["domain"], answer["threshold"]) for answer in found} == {(None, None, 0.4)}
    assert image_of(found[0]["picture"]).size == (40, 30)
    assert bad["error"] == "not a JPEG, PNG, TIFF, BMP, WEBP or DICOM image"


def test_facts_about_it(path):
    facts = client_of(ExportedModel.load(path)).get("/model").json()
    assert (facts["exported"], facts["explains"], facts["tells_domain"]) == (True, False, False)
    assert (facts["precision"], facts["threshold"]) == ("float32", 0.4)


def test_the_command_imports_nothing_heavy(path):
    code = (
        "import sys, uvicorn; from cxr_sklearn.cli import app\n"
        "uvicorn.Server.run = lambda self, sockets: print('served', self.config.app.title)\n"
        f"try: app(['serve', {str(path)!r}, '--port', '0'])\n"
        f"except SystemExit as end: print(end.code, [name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-2:] == ["served cxr-sklearn", "0 []"]
