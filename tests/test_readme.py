"""Every Python block of the README works when pasted."""

import re

import pytest

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


def test_every_block_is_looked_at():
    assert len(BLOCKS) == 2
