"""The served page in a browser: that it works, is accessible, and contacts only its own server.

With a folder's name in CXR_SCREENSHOTS, pictures of the page are left there.
"""

import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxr_sklearn import CXRModel, DomainDetector, save_model, write_radiographs

pytest.importorskip("fastapi")

from ..report.test_browser import FITS, VIOLATIONS, browser  # noqa: F401
from .conftest import BENCHMARK, pixel_pipeline

pytestmark = pytest.mark.browser
SERVING = BENCHMARK["serving"]


@pytest.fixture(scope="module")
def frame(tmp_path_factory):
    return write_radiographs(tmp_path_factory.mktemp("radiographs"), 40, size=160, random_state=0)


@pytest.fixture(scope="module")
def detector(frame):
    return DomainDetector(None).fit(frame["path"])


@pytest.fixture(scope="module")
def address(frame, detector, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.joblib"
    facts = {"recipe": "pixels", "synthetic": True}
    save_model(CXRModel(pixel_pipeline(frame), 0.4, domain=detector, metadata=facts), path)
    with SERVING(path) as address:
        yield address


@pytest.fixture
def open_page(browser, address):  # noqa: F811
    """Pages by width and colour scheme, and the errors in them."""
    contexts = []

    def open_page(width=1280, scheme="light"):
        contexts.append(browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme))
        page, wrong = contexts[-1].new_page(), []
        page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "request", lambda request: None if request.url.startswith((address, "data:")) else wrong.append(request.url)
        )
        page.goto(address)
        return page, wrong

    yield open_page
    for context in contexts:
        context.close()


def give(page, *paths):
    """Choose files, and wait until all files chosen so far are done."""
    page.set_input_files("#files", paths)
    n = page.locator("#results li").count()
    page.locator("#status", has_text=re.compile(f"^{n} done$")).wait_for()


def keep_picture(page, name):
    if folder := os.environ.get("CXR_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"serve-{name}.png", full_page=True)


@pytest.fixture
def black(tmp_path):
    path = tmp_path / "black.tiff"
    Image.fromarray(np.zeros((120, 90), dtype=np.uint8)).save(path)
    return path


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_scores_and_heat_maps(open_page, frame, detector, black, tmp_path, width, scheme):
    from axe_playwright_python.sync_playwright import Axe

    page, wrong = open_page(width, scheme)
    keep_picture(page, f"empty-{width}-{scheme}")
    text = tmp_path / ("a_long_name_without_a_space_" * 4 + ".txt")
    text.write_text("no picture")
    inside = frame["path"][detector.predict(frame["path"]) == 1]
    give(page, *inside.iloc[:2], black, text)
    radiograph, _, out, unreadable = (page.locator("#results li").nth(i) for i in range(4))

    assert "the threshold of 0.400." in radiograph.inner_text()
    assert "In domain" in radiograph.inner_text()
    assert "This is not a diagnosis, and this is not a medical device." in radiograph.inner_text()
    assert "Its score means nothing." in out.inner_text()
    assert "not a JPEG, PNG, TIFF, BMP, WEBP or DICOM image" in unreadable.inner_text()
    assert "Score" not in unreadable.inner_text()

    picture, heat = (radiograph.locator("img").nth(i) for i in range(2))
    assert heat.bounding_box() == pytest.approx(picture.bounding_box(), abs=0.5)
    assert picture.evaluate("e => e.complete && e.naturalWidth") == 160
    assert heat.evaluate("e => [e.complete && e.naturalWidth, getComputedStyle(e).opacity]") == [32, "0.6"]

    page.evaluate(Axe().axe_script)
    assert page.evaluate(VIOLATIONS) == []
    assert page.evaluate(FITS) == 0
    keep_picture(page, f"results-{width}-{scheme}")
    assert wrong == []


def test_the_heat_map_can_be_taken_away_and_all_be_cleared_by_keyboard(open_page, frame):
    page, wrong = open_page()
    give(page, frame["path"][0])
    page.focus("#heat")
    page.keyboard.press("Home")
    assert page.locator(".heat").evaluate("e => getComputedStyle(e).opacity") == "0"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.locator("#results li").count() == 0
    assert page.evaluate("document.activeElement.id") == "files"
    give(page, frame["path"][1])
    assert page.locator(".score").count() == 1
    assert wrong == []


def test_files_can_be_dropped_anywhere(open_page):
    page, wrong = open_page()
    page.evaluate("""() => {
      const transfer = new DataTransfer();
      transfer.items.add(new File(["text"], "notes.txt"));
      document.body.dispatchEvent(new DragEvent("drop", {dataTransfer: transfer, bubbles: true, cancelable: true}));
    }""")
    page.get_by_text("No score: not a JPEG").wait_for()
    assert wrong == []


def test_a_file_too_large_is_not_even_sent(open_page, frame, tmp_path):
    page, wrong = open_page()
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(50_000_001)
    sent = []
    page.on("request", lambda request: sent.append(request.url) if request.method == "POST" else None)
    give(page, tmp_path / "large.png", frame["path"][0])
    assert "No score: it has more than 50 MB" in page.locator("#results li").nth(0).inner_text()
    assert len(sent) == 1
    assert wrong == []


def test_fifty_files_at_once(open_page, frame):
    page, wrong = open_page()
    give(page, *frame["path"].iloc[:50])
    assert page.locator(".score").count() == 50
    assert page.locator("#results h2").all_inner_texts() == [Path(path).name for path in frame["path"].iloc[:50]]
    assert wrong == []


def test_a_stopped_server_is_reported(open_page, frame):
    page, _ = open_page()
    page.context.set_offline(True)
    give(page, frame["path"][0])
    assert "is cxr-sklearn serve still running?" in page.locator("#results li").inner_text()


@pytest.mark.realdata
def test_a_real_radiograph(open_page, real_data):
    page, wrong = open_page()
    give(page, *sorted((real_data / "originals").rglob("*.jpeg"))[:3])
    assert page.locator(".heat").count() == 3
    boxes = [page.locator("#results .shown img").nth(i).bounding_box() for i in range(2)]
    assert boxes[0] == pytest.approx(boxes[1], abs=0.5)
    assert boxes[0]["width"] > boxes[0]["height"]
    keep_picture(page, "real")
    assert wrong == []
