"""A short fuzz run over exported models, and that it would notice failures; the harness is that of images."""

import os
import re
import subprocess
import sys

import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

from ..conftest import ROOT
from .fuzz import damaged, seeds

PROGRAM = """
import sys
from cxr_sklearn import ExportedModel
from tests.images import fuzz as harness
from tests.models import fuzz

def load(path):
    BROKEN

ExportedModel.load = load
harness.MEGABYTES, harness.SECONDS = 400, 1
sys.exit(fuzz.main())
"""


def run(*arguments, code=None, by_hand="1"):
    command = [sys.executable, *(("-m", "tests.models.fuzz") if code is None else ("-c", code)), *map(str, arguments)]
    environment = os.environ | {"CXR_BY_HAND": by_hand}
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)


@pytest.mark.parametrize(
    ("n", "by_hand"),
    [(300, "1"), pytest.param(2000, "", marks=[pytest.mark.slow, pytest.mark.keras])],
    ids=["by hand", "exports"],
)
def test_damaged_models_are_refused_or_used(tmp_path, n, by_hand):
    done = run("--files", n, "--folder", tmp_path, by_hand=by_hand)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = re.search(rf"{n} files: (\d+) refused, (\d+) read, 0 failed, .*peak memory (\d+) MB", done.stdout)
    refused, read, megabytes = map(int, summary.groups())
    assert refused + read == n
    assert read > n / 50  # damage that is always noticed tests little
    assert megabytes < 1000
    assert not list(tmp_path.glob("*-*"))


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        ("raise ValueError('odd')", "ValueError: odd"),
        ("raise fuzz.ModelError('two\\nlines')", "ashamed"),
        ("while True: pass", "more than 1 s"),
    ],
)
def test_each_kind_of_failure_is_noticed(tmp_path, broken, why):
    done = run("--only", 3, "--folder", tmp_path, code=PROGRAM.replace("BROKEN", broken))
    assert done.returncode == 1, done.stdout + done.stderr
    assert why in done.stdout
    assert next(tmp_path.glob("3-*")).read_bytes() == damaged(3, seeds(real=False))[1]
