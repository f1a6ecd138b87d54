"""The package stays readable: short modules, short functions, recipes that use public names only."""

import ast

import pytest

import cxr_sklearn

from .conftest import ROOT

MODULES = sorted((ROOT / "cxr_sklearn").rglob("*.py"))
RECIPES = sorted([*(ROOT / "pipelines").glob("*.py"), *(ROOT / "examples" / "recipes").glob("*.py")])
LINES_OF_MODULE = 600
LINES_OF_FUNCTION = 60


def long_functions(source):
    """Return the names of functions with too many lines of code, not counting docstrings, comments and empty lines."""
    lines = source.splitlines()
    too_long = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        body = node.body[1:] if ast.get_docstring(node) is not None else node.body
        code = lines[body[0].lineno - 1 : body[-1].end_lineno] if body else []
        if sum(not line.lstrip().startswith("#") for line in code if line.strip()) > LINES_OF_FUNCTION:
            too_long.append(node.name)
    return too_long


def imports_beyond_public_names(source):
    """Return the names that a recipe imports from the package and that are not public."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] == "cxr_sklearn"]
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            if module == "cxr_sklearn":
                found += [alias.name for alias in node.names if alias.name not in cxr_sklearn.__all__]
            elif module.startswith((".", "cxr_sklearn.")):
                found.append(module)
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_and_functions_are_short(path):
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= LINES_OF_MODULE
    assert long_functions(source) == []


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_import_public_names_only(path):
    assert imports_beyond_public_names(path.read_text(encoding="utf-8")) == []


def test_something_is_looked_at():
    assert MODULES
    assert RECIPES


def test_a_long_function_is_found():
    fits = "\n".join(["def fits():", '    """Say\n    much."""', *["    # why\n    pass\n"] * LINES_OF_FUNCTION])
    too_long = "\n".join(["    async def too_long():", *["        pass"] * (LINES_OF_FUNCTION + 1)])
    assert long_functions(f"{fits}\nclass Holder:\n{too_long}\n") == ["too_long"]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("from cxr_sklearn import ImageLoader", []),
        ("from cxr_sklearn import ImageLoader, backbones", ["backbones"]),
        ("from cxr_sklearn.images.loader import ImageLoader", ["cxr_sklearn.images.loader"]),
        ("import numpy, cxr_sklearn.images.loader", ["cxr_sklearn.images.loader"]),
        ("from . import shortcuts", ["."]),
        ("from sklearn.pipeline import Pipeline", []),
    ],
)
def test_imports_of_what_is_not_public_are_found(line, found):
    assert imports_beyond_public_names(line) == found
