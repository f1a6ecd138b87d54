"""Every Python block of the README works when pasted."""

import re

import pytest

from cxr_sklearn.recipes import load_recipe

from .conftest import ROOT

BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)


@pytest.mark.keras
@pytest.mark.slow
def test_ten_lines_of_python(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile(BLOCKS[0], "README.md", "exec"), {})
    scores = [float(score) for score in re.findall(r"\d\.\d*", capsys.readouterr().out)]
    assert len(scores) == 5
    assert all(0 <= score <= 1 for score in scores)


@pytest.mark.keras
@pytest.mark.slow
def test_a_network_that_learns(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile(BLOCKS[1], "README.md", "exec"), {})
    assert 0 <= float(capsys.readouterr().out) <= 1


def test_a_check(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile(BLOCKS[2], "README.md", "exec"), {})
    facts, *warnings = capsys.readouterr().out.splitlines()
    assert facts == "[]"
    assert any("validation split" in line for line in warnings)


def test_a_recipe_of_ones_own(tmp_path):
    (tmp_path / "mine.py").write_text(BLOCKS[3])
    recipe = load_recipe(tmp_path / "mine.py")
    recipe.build(store=None, weights="random", random_state=0).set_params(
        **{name: values[0] for name, values in recipe.param_grid.items()}
    )


def test_a_model_that_travels(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile(BLOCKS[4], "README.md", "exec"), {})
    assert capsys.readouterr().out == "True\n"


def test_every_block_is_looked_at():
    assert len(BLOCKS) == 5
