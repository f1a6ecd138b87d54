"""The page of examples/browser: its pixels and scores are ours, and it asks only its own server."""

import functools
import re
import shutil
import subprocess
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cxr_sklearn import ExportedModel, FrozenEmbedder, ImageLoader, export_onnx, write_radiographs
from cxr_sklearn.images._decoding import Decoding

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

from ..conftest import ROOT
from ..report.test_browser import FITS, VIOLATIONS, browser  # noqa: F401
from .exported import exported

pytestmark = [pytest.mark.browser, pytest.mark.slow]
PAGE = ROOT / "examples" / "browser"
#: As docs/how-to/onnx-browser.md installs it.
PACKAGE = "onnxruntime-web@1.30.0"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Of a server of the page, with the package that it needs."""
    folder = tmp_path_factory.mktemp("page") / "browser"
    shutil.copytree(PAGE, folder, ignore=shutil.ignore_patterns("node_modules"))
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("no npm on PATH")  # in CI, too: nothing else needs it
    command = [npm, "install", "--prefer-offline", "--ignore-scripts", "--no-audit", "--no-fund", PACKAGE]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"npm cannot install {PACKAGE}: {done.stderr.strip()[-200:]}")
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


@pytest.fixture
def page(browser, address):  # noqa: F811
    """The open page; at its end, nothing may have gone wrong or anywhere else."""
    context, wrong = browser.new_context(), []
    page = context.new_page()
    page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda asked: wrong.append(asked.url) if not is_own(asked, address) else None)
    page.goto(address)
    yield page
    context.close()
    assert wrong == []


def is_own(asked, address):
    return asked.url.startswith((address, "data:", "blob:")) and asked.method == "GET"


def model_file(tmp_path, **changed):
    path = tmp_path / "model.onnx"
    path.write_bytes(exported(**changed))
    return path


def scores_in(page, model, files):
    """Choose a model and images, and return the columns of the table."""
    page.set_input_files("#model", model)
    page.locator("#about", has_text="model.onnx").wait_for()
    page.set_input_files("#images", files)
    page.locator(f"#rows tr:nth-child({len(files)}) td:nth-child(2)").wait_for()
    return [row.split("\t") for row in page.locator("#rows tr").all_inner_texts()]


@pytest.mark.parametrize(("fit", "crop"), [("stretch", 1.0), ("pad", 0.8), ("crop", 0.7)])
def test_scores_are_those_of_the_package(page, tmp_path, fit, crop):
    path = model_file(tmp_path, fit=fit, crop=crop, size=[48, 64])
    model = ExportedModel.load(path)
    frame = write_radiographs(tmp_path / "drawn", 10, size=160, random_state=0)
    files = []
    for i, source in enumerate(frame["path"][:4]):
        with Image.open(source) as image:
            files.append(tmp_path / f"{i}.png")
            image.crop((0, 0, 160 - 9 * i, 120 + 11 * i)).save(files[-1])
    colours = np.random.default_rng(0).integers(0, 256, (50, 40, 3), dtype=np.uint8)
    Image.fromarray(colours).save(tmp_path / "colours.png")
    files.append(tmp_path / "colours.png")
    found = scores_in(page, path, files)
    rows = model.predict_files(files)
    assert [cells[0] for cells in found] == [file.name for file in files]
    assert [float(cells[1]) for cells in found] == pytest.approx([row["score"] for row in rows], abs=1e-3)
    assert [cells[2] for cells in found] == [row["decision"] for row in rows]


@pytest.mark.keras
def test_scores_of_a_quantised_network(page, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    frame = write_radiographs(tmp_path / "drawn", 20, size=64, random_state=0)
    embedder = FrozenEmbedder("MobileNet", weights="random", precision="int8", store=None)
    pipeline = make_pipeline(ImageLoader(48), embedder, StandardScaler(), LogisticRegression())
    export_onnx(pipeline.fit(frame["path"], frame["target"]), tmp_path / "model.onnx")
    files = frame["path"][:4].tolist()
    found = scores_in(page, tmp_path / "model.onnx", files)
    wanted = [row["score"] for row in ExportedModel.load(tmp_path / "model.onnx").predict_files(files)]
    assert [float(cells[1]) for cells in found] == pytest.approx(wanted, abs=1e-3)
    assert page.locator("#about").inner_text().endswith("int8.")


def test_pixels_are_those_of_the_package(page):
    draw, n_equal = np.random.default_rng(0), 0
    for number in range(60):
        shape, size = draw.integers(1, 90, 2), draw.integers(1, 60, 2).tolist()
        fit, crop = ("stretch", "pad", "crop")[number % 3], float(draw.choice([1, 0.9, 0.55]))
        pixels = draw.integers(0, 256, shape, dtype=np.uint8)
        given = {"width": int(shape[1]), "height": int(shape[0]), "data": pixels.ravel().tolist()}
        facts = {"size": size, "crop": crop, "fit": fit}
        found = page.evaluate(
            """async ([image, facts]) => {
              const {fitted} = await import("./app.js");
              try { return [...fitted(image, facts).data]; } catch (error) { return error.message; }
            }""",
            [given, facts],
        )
        try:
            wanted = Decoding(*size, fit, crop)(pixels).ravel().astype(int)
        except ValueError:
            assert found == "the image is too narrow"
            continue
        apart = np.abs(np.array(found) - wanted)
        assert apart.max() <= 1, (shape, facts)  # where Pillow resizes columns first
        n_equal += not apart.any()
    assert n_equal > 30


def test_what_cannot_be_scored_is_said(page, tmp_path):
    path = model_file(tmp_path)
    (tmp_path / "text.png").write_text("no image")
    Image.fromarray(np.arange(100, dtype=np.uint16).reshape(10, 10) * 600).save(tmp_path / "deep.png")
    found = scores_in(page, path, [tmp_path / "text.png", tmp_path / "deep.png"])
    assert "the browser cannot read this image" in found[0][1]
    assert "16-bit PNG images are scored by cxr-sklearn predict alone" in found[1][1]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (exported(format=2), "this page reads format 1, not 2"),
        (exported().replace(b'"threshold": 0.5', b'"threshold": 0.4'), "the model is damaged"),
        (exported()[:-20], "not a whole model|not a whole one|not an ONNX file"),
        (b"\x12\x02hi", "this is not a model that cxr-sklearn exported"),
    ],
)
def test_other_files_are_refused(page, tmp_path, content, why):
    (tmp_path / "model.onnx").write_bytes(content)
    page.set_input_files("#model", tmp_path / "model.onnx")
    page.locator("#about", has_text="cannot be used").wait_for()
    assert re.search(why, page.locator("#about").inner_text())


def test_the_page_is_accessible_and_fits(page):
    from axe_playwright_python.sync_playwright import Axe

    page.set_viewport_size({"width": 360, "height": 800})
    # The policy of the page lets no script in but its own.
    page.context.new_cdp_session(page).send("Page.setBypassCSP", {"enabled": True})
    page.reload()
    page.evaluate(Axe().axe_script)
    assert page.evaluate(VIOLATIONS) == []
    assert page.evaluate(FITS) == 0
