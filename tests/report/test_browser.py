"""report.html in a browser: that it fits, that it is accessible, and that it fetches nothing.

With a folder's name in CXR_SCREENSHOTS, pictures of the page are left there.
"""

import os
import shutil
from pathlib import Path

import pytest

from cxr_sklearn.report.words import LANGUAGES

pytestmark = pytest.mark.browser

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

A4 = 794  # its width in CSS pixels
# Paper cannot be scrolled.
CUT_OFF = """[...document.querySelectorAll(".scroll")].filter(e => getComputedStyle(e).overflowX !== "visible")
  .map(e => e.outerHTML.slice(0, 200))"""
FITS = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
VIOLATIONS = """
axe.run({preload: false, resultTypes: ["violations"]}).then(
  results => results.violations.filter(violation => ["serious", "critical"].includes(violation.impact)))
"""
NOT_DRAWN = """() => {
  const empty = e => { const box = e.getBoundingClientRect(); return !(box.width && box.height) };
  return [
    ...[...document.images].filter(e => !(e.complete && e.naturalWidth)),
    ...[...document.querySelectorAll("svg")].filter(empty),
  ].map(e => e.outerHTML.slice(0, 200));
}"""
# A region without a tabindex does not count: Chromium can reach it with Tab, but Safari cannot.
WATCH_FOCUS = """() => {
  const scrolls = (how, inner, outer) => ["auto", "scroll"].includes(how) && inner > outer;
  window.unreached = new Set([...document.body.querySelectorAll("*")].filter(e => {
    const style = getComputedStyle(e);
    return scrolls(style.overflowX, e.scrollWidth, e.clientWidth) ||
      scrolls(style.overflowY, e.scrollHeight, e.clientHeight);
  }));
  for (const e of unreached) e.addEventListener("focusin", event => {
    if (event.target !== e || e.hasAttribute("tabindex")) unreached.delete(e);
  });
  return document.querySelectorAll("a[href], button, input, select, summary, textarea, [tabindex]").length;
}"""


def problems(page, path):
    """Open the file in the page and return its faults."""
    from axe_playwright_python.sync_playwright import Axe

    url = path.as_uri()
    found = []

    def watch_request(request):
        if request.url.split("#")[0] != url and not request.url.startswith("data:"):
            found.append(f"request: {request.url}")

    def watch_console(message):
        if message.type == "error":
            found.append(f"console: {message.text}")

    page.on("request", watch_request)
    page.on("console", watch_console)
    page.on("pageerror", lambda error: found.append(f"script: {error}"))
    page.goto(url)
    page.evaluate("document.querySelectorAll('details').forEach(e => { e.open = true })")  # what is shut is not checked

    page.evaluate(Axe().axe_script)
    if (excess := page.evaluate(FITS)) > 0:
        found.append(f"too wide by {excess} px")
    for violation in page.evaluate(VIOLATIONS):
        nodes = "".join(f"\n  {node['html']}\n    {node['failureSummary']}" for node in violation["nodes"])
        found.append(f"axe: {violation['id']}: {violation['help']}{nodes}")

    found += [f"not drawn: {html}" for html in page.evaluate(NOT_DRAWN)]
    for _ in range(page.evaluate(WATCH_FOCUS) + 1):
        page.keyboard.press("Tab")
    found += [
        f"not reached by Tab: {html}" for html in page.evaluate("[...unreached].map(e => e.outerHTML.slice(0, 200))")
    ]
    return found


def missing(what):
    """Skip; fail in CI, where nobody would notice a skip."""
    if os.environ.get("CI"):
        pytest.fail(f"{what}, and CI must not do without", pytrace=False)
    pytest.skip(what)


@pytest.fixture(scope="module")
def browser():
    try:
        import axe_playwright_python  # noqa: F401
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        missing(f"{error.name} is not installed")
    executable = shutil.which("chromium") or shutil.which("chromium-browser")
    if executable is None:
        missing("no chromium on PATH")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser):
    """New pages by width and colour scheme, each in a context of its own and offline."""
    contexts = []

    def open_page(width=1024, scheme="light"):
        viewport = {"width": width, "height": 800}
        contexts.append(browser.new_context(viewport=viewport, color_scheme=scheme, offline=True))
        return contexts[-1].new_page()

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture
def report(request):
    """The report of a comparison, or of an evaluation, by language."""
    return request.getfixturevalue({"compare": "rendered", "evaluate": "rendered_evaluation"}[request.param])


of_both = pytest.mark.parametrize("report", ["compare", "evaluate"], indirect=True)


@of_both
@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1024, 1600])
def test_the_report_in_a_browser(open_page, report, width, scheme, lang, request):
    page = open_page(width, scheme)
    found = problems(page, report[lang] / "report.html")
    assert page.evaluate("document.documentElement.lang") == lang
    if folder := os.environ.get("CXR_SCREENSHOTS"):
        stem = f"report-{request.node.callspec.params['report']}-{lang}-{width}-{scheme}"
        page.reload()
        page.screenshot(path=Path(folder) / f"{stem}.png", full_page=True)
    assert not found, "\n".join(found)


@of_both
@pytest.mark.parametrize("lang", LANGUAGES)
def test_the_report_on_paper(open_page, report, lang, request):
    page = open_page(width=A4)
    page.goto((report[lang] / "report.html").as_uri())
    page.emulate_media(media="print")
    assert page.evaluate(FITS) == 0
    assert page.evaluate(CUT_OFF) == []
    pdf = page.pdf(format="A4")
    assert pdf.count(b"/Type /Page\n") > 4
    if folder := os.environ.get("CXR_SCREENSHOTS"):
        (Path(folder) / f"report-{request.node.callspec.params['report']}-{lang}.pdf").write_bytes(pdf)


SOUND = """<!DOCTYPE html><html lang="en"><title>A page</title><style>
.scroll { overflow: auto; width: 9rem }
.wide { width: 9999px }
</style><main><h1>A page</h1>
<div class="scroll" tabindex="0"><div class="wide">text</div></div>
<div class="scroll"><div class="wide"><a href="#">link</a></div></div>
<svg width="9" height="9"></svg><img alt="" src="data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA=">
"""

BROKEN = """<!DOCTYPE html><html lang="en"><title>A page</title><style>
.scroll { overflow: auto; width: 9rem }
.wide { width: 9999px }
.pale { color: #ccc }
</style><link rel="stylesheet" href="other.css">
<script>console.error("oh")</script><script>throw Error("oh")</script><main><h1>A page</h1>
<div class="wide">text</div><div class="scroll"><div class="wide">text</div></div>
<p class="pale">text</p>
<svg width="0"></svg><img src="https://example.org/a.png">
"""


def test_a_sound_page_passes(open_page, tmp_path):
    (tmp_path / "page.html").write_text(SOUND)
    assert problems(open_page(), tmp_path / "page.html") == []


def test_a_broken_page_has_every_problem(open_page, tmp_path):
    (tmp_path / "page.html").write_text(BROKEN)
    found = problems(open_page(), tmp_path / "page.html")
    # The console also reports the two files that could not be loaded.
    assert sorted(line.split("\n")[0] for line in found if "Failed to load resource" not in line) == [
        "axe: color-contrast: Elements must meet minimum color contrast ratio thresholds",
        "axe: image-alt: Images must have alternative text",
        "console: oh",
        'not drawn: <img src="https://example.org/a.png">',
        'not drawn: <svg width="0"></svg>',
        'not reached by Tab: <div class="scroll"><div class="wide">text</div></div>',
        f"request: {(tmp_path / 'other.css').as_uri()}",
        "request: https://example.org/a.png",
        "script: oh",
        "too wide by 8983 px",
    ]
