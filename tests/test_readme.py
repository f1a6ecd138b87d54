"""Every Python block of the README works when pasted."""

import re

import pytest

from .conftest import ROOT

BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)


@pytest.mark.keras
@pytest.mark.slow
@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_prints_scores(tmp_path, monkeypatch, capsys, block):
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README.md", "exec"), {})
    scores = [float(score) for score in re.findall(r"\d\.\d*", capsys.readouterr().out)]
    assert scores
    assert all(0 <= score <= 1 for score in scores)


def test_there_are_blocks():
    assert BLOCKS
