"""The tutorial, its Spanish version and its notebook agree, and run."""

import importlib.util
import re

import nbformat
import pytest

from .conftest import ROOT

PAGES = [ROOT / "docs" / name for name in ("tutorial.md", "tutorial.es.md")]


@pytest.fixture(scope="module")
def maker():
    spec = importlib.util.spec_from_file_location("make_notebook", ROOT / "docs" / "make_notebook.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tables_of(notebook):
    outputs = (output for cell in notebook.cells for output in cell.get("outputs", []))
    return [it["data"]["text/plain"] for it in outputs if "text/html" in it.get("data", {})]


def said(notebook):
    return "".join(output.text for cell in notebook.cells for output in cell.get("outputs", []) if "text" in output)


def test_the_notebook_is_that_of_the_page(maker):
    def sources(cells):
        return [(cell.cell_type, cell.source) for cell in cells.cells]

    assert sources(nbformat.read(maker.NOTEBOOK, as_version=4)) == sources(maker.notebook())


def test_the_notebook_shows_what_the_page_shows(maker):
    shown = tables_of(nbformat.read(maker.NOTEBOOK, as_version=4))
    printed = re.findall(r"```text\n(.*?)\n```", PAGES[0].read_text(), flags=re.DOTALL)
    assert printed
    assert [re.sub(" +\n", "\n", text) for text in shown] == printed


def test_the_notebook_was_run_on_real_weights_and_says_nothing_but_its_tables(maker):
    """Warnings would contain paths of the machine that it was made on."""
    assert said(nbformat.read(maker.NOTEBOOK, as_version=4)) == ""


def test_images_and_weights_are_found_from_where_the_notebook_is_made(maker, tmp_path, monkeypatch):
    (tmp_path / "VGG16.h5").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CXR_WEIGHTS", "VGG16.h5")
    monkeypatch.setenv("CXR_DATA", "not there")
    code = "import os; print(os.path.isfile(os.environ['CXR_WEIGHTS']), os.environ['CXR_DATA'], end='')"
    cells = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    assert said(maker.run(cells)) == "True not there"


def test_both_languages_run_and_show_the_same():
    english, spanish = (re.findall(r"```(?:python|text)\n.*?```", page.read_text(), flags=re.DOTALL) for page in PAGES)
    assert english
    assert english == spanish


@pytest.mark.keras
@pytest.mark.slow
def test_the_notebook_runs(maker, monkeypatch):
    """With drawn images and random weights, it runs, and moving averages mislead there, too."""
    for name in ("CXR_DATA", "CXR_WEIGHTS"):
        monkeypatch.delenv(name, raising=False)
    cells = maker.run(maker.notebook())
    tables = tables_of(cells)
    moving, exact = ([float(x) for x in re.findall(rf"CNN, {kind} +(.*)", tables[2])[0].split()] for kind in
                     ("moving", "exact"))  # fmt: skip
    assert moving[0] < exact[0]
    assert "VGG16 has random weights" in said(cells)
