"""The documentation is correct: its code runs, its links lead somewhere, its options exist."""

import re
import runpy

import pytest
import typer

import cxr_sklearn
from cxr_sklearn.cli import app
from cxr_sklearn.study.recipes import load_recipe

from .conftest import ROOT

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
#: Pages whose blocks other tests execute, on a cluster or as notebooks.
ELSEWHERE = {
    "README.md": "test_readme.py",
    "docs/how-to/cluster.md": "test_dask.py",
    "docs/tutorial.md": "test_tutorial.py",
    "docs/tutorial.es.md": "test_tutorial.py",
}
NEED_NO_KERAS = {
    "docs/evaluate-vs-predict.md",
    "docs/how-to/choose-without-test.md",
    "docs/how-to/dicom.md",
    "docs/how-to/own-folder.md",
    "docs/how-to/own-hospital.md",
    "docs/how-to/own-recipe.md",
    "docs/how-to/reporting.md",
    "docs/how-to/saving-and-serving.md",
}
FENCE = re.compile(r"^ *(`{3,}|~{3,})(.*?)\n(.*?)^ *\1 *$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
IDENTIFIER = re.compile(r"^::: (\S+)$", re.MULTILINE)


def name(page):
    return page.relative_to(ROOT).as_posix()


def blocks(page):
    """The Python blocks of a page, however their fences are named or indented."""
    found = FENCE.findall(page.read_text(encoding="utf-8"))
    python = re.compile(r"\W*(python|py|python3|pycon)\b", re.IGNORECASE)
    return [code for _, language, code in found if python.match(language)]


def prose(page):
    """A page without its code."""
    return re.sub(r"`(?:[^`\n]|\n(?!\n))+`", "``", FENCE.sub("", page.read_text(encoding="utf-8")))


def cases():
    for page in PAGES:
        if name(page) not in ELSEWHERE and blocks(page):
            marks = [] if name(page) in NEED_NO_KERAS else [pytest.mark.keras, pytest.mark.slow]
            yield pytest.param(page, marks=marks, id=name(page))


@pytest.mark.parametrize("page", list(cases()))
def test_the_blocks_of_a_page_run_one_after_the_other(page, tmp_path, monkeypatch):
    if name(page) == "docs/how-to/dicom.md":
        pytest.importorskip("pydicom", reason="needs the extra dicom")
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__main__"}
    for code in blocks(page):
        exec(compile(code, name(page), "exec"), namespace)


@pytest.mark.parametrize(("page", "test"), ELSEWHERE.items())
def test_pages_that_are_executed_elsewhere_have_code_and_a_test(page, test):
    assert blocks(ROOT / page)
    assert page.split("/")[-1].split(".")[0] in (ROOT / "tests" / test).read_text(encoding="utf-8")


def test_the_recipe_of_the_page_can_be_loaded(tmp_path):
    (code,) = blocks(DOCS / "how-to" / "own-recipe.md")
    (tmp_path / "mine.py").write_text(code, encoding="utf-8")
    recipe = load_recipe(tmp_path / "mine.py")
    assert recipe.takes("store")
    recipe.build(store=None, weights="random", random_state=0)


def slug(heading):
    """The anchor that MkDocs and GitHub make of a plain heading."""
    text = re.sub(r"[`*]|\[([^]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", text))


def text_of(page):
    """A page as MkDocs renders it, with the public names in the reference."""
    return runpy.run_path(str(DOCS / "hooks.py"))["on_page_markdown"](page.read_text(encoding="utf-8"))


def anchors(page):
    text = text_of(page)
    headings = re.findall(r"^#+ (.+?)\s*$", FENCE.sub("", text), flags=re.MULTILINE)
    return {slug(heading) for heading in headings} | set(IDENTIFIER.findall(text))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_relative_link_leads_somewhere(page):
    for link in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{name(page)}: {link}"
        if DOCS in page.parents:
            assert DOCS in target.parents, f"{name(page)}: {link} is not on the site"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{name(page)}: {link}"


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2].partition("\nplugins:")[0]
    shown = re.findall(r": (\S+\.md)$", navigation, flags=re.MULTILINE)
    assert sorted(shown) == sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))


def test_the_reference_has_every_public_name_once():
    shown = IDENTIFIER.findall(text_of(DOCS / "reference.md"))
    public = [f"cxr_sklearn.{attribute}" for attribute in cxr_sklearn.__all__ if not attribute.startswith("_")]
    assert sorted(shown) == sorted([*public, "cxr_sklearn.exceptions"])


def options():
    """Every command with the names of its options and arguments, as the application has them."""
    commands = typer.main.get_command(app).commands
    return {
        command: {
            option
            for parameter in facts.params
            for option in (
                [*parameter.opts, *parameter.secondary_opts]
                if parameter.param_type_name == "option"
                else [parameter.name.upper()]
            )
        }
        for command, facts in commands.items()
    }


def test_the_command_line_is_described_as_it_is():
    text = (DOCS / "command-line.md").read_text(encoding="utf-8")
    _, *sections = re.split(r"^## ", text, flags=re.MULTILINE)
    described = {}
    for section in sections:
        command, _, body = section.partition("\n")
        cells = re.findall(r"^\| (`.+?) \|", body, flags=re.MULTILINE)
        described[command] = {option for cell in cells for option in re.findall(r"`([^`]+)`", cell)}
    assert described == {command: known - {"--help"} for command, known in options().items()}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_in_the_text_have_the_options_they_are_shown_with(page):
    known = options()
    text = re.sub(r"\\\n\s*", " ", page.read_text(encoding="utf-8"))
    for line in re.findall(r"cxr-sklearn ([a-z-]+[^`#|\n]*)", text):
        command, *words = line.split()
        if command not in known:
            continue
        shown = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        assert shown <= known[command] | {"--help"}, line


def test_console_blocks_name_commands_that_there_are():
    for page in PAGES:
        for _, language, code in FENCE.findall(page.read_text(encoding="utf-8")):
            if language.strip() == "console":
                commands = re.findall(r"^\$ (?:\w+=\S+ )*cxr-sklearn ([\w-]+)", code, flags=re.MULTILINE)
                assert set(commands) <= set(options()), name(page)


def test_no_page_names_a_place_on_a_machine():
    for page in PAGES:
        assert not re.search(r"(?<![\w.])/(work|tmp|home|root)/", page.read_text(encoding="utf-8")), name(page)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_scripts_that_a_page_calls_exist(page):
    for script in re.findall(
        r"\bpython ((?:benchmarks|docs|examples|cache)/\S+\.py)", page.read_text(encoding="utf-8")
    ):
        assert (ROOT / script).is_file()
