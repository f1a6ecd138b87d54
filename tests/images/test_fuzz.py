"""A short fuzz run, and that it would notice failures."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from cxr_sklearn import ImageLoader

from .fuzz import attempt, damaged, seeds

ROOT = Path(__file__).parents[2]
PROGRAM = """
import os, signal, sys
from cxr_sklearn.exceptions import ImageReadError
from cxr_sklearn.images.batch import ImageBatch
from tests.images import fuzz

def decode(batch, i):
    BROKEN

ImageBatch.decode = decode
fuzz.MEGABYTES, fuzz.SECONDS = 300, LIMIT
sys.exit(fuzz.main())
"""


def run(*arguments, code=None):
    command = [sys.executable, *(("-m", "tests.images.fuzz") if code is None else ("-c", code)), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)


def test_nothing_but_read_errors_comes_out_of_damaged_files(tmp_path):
    done = run("--files", 400, "--folder", tmp_path)
    assert done.returncode == 0, done.stdout
    summary = re.match(r"400 files: (\d+) refused, (\d+) read, 0 failed, .*peak memory (\d+) MB", done.stdout)
    refused, read, megabytes = map(int, summary.groups())
    assert refused + read == 400
    assert min(refused, read) > 40  # damage that is always or never noticed tests little
    assert megabytes < 1000
    assert not list(tmp_path.glob("*-*"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Number of a file that can be read although it is damaged."""
    path, files = tmp_path_factory.mktemp("one") / "image", seeds()
    for number in range(1000):
        path.write_bytes(damaged(number, files)[1])
        if attempt(path, number):
            return number
    raise AssertionError("no damaged file can be read")


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        ("raise ValueError('odd')", "ValueError: odd"),
        ("while True: pass", "more than 0.4 s"),
        ("bytearray(b'x') * 400_000_000; raise ImageReadError({'a': 'b'}, 1)", "took "),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "killed by signal 11"),
        ("raise ImageReadError({'a': '<b at 0x7f>'}, 1)", "ashamed"),
        ("return 3", "AttributeError"),
    ],
)
def test_each_kind_of_failure_is_noticed(tmp_path, whole, broken, why):
    code = PROGRAM.replace("BROKEN", broken).replace("LIMIT", "0.4" if "while" in broken else "20")
    done = run("--only", whole, "--folder", tmp_path, code=code)
    assert done.returncode == 1, done.stdout
    assert f"file {whole} (" in done.stdout
    assert why in done.stdout
    assert "1 failed" in done.stdout
    assert next(tmp_path.glob(f"{whole}-*")).read_bytes() == damaged(whole, seeds())[1]


def test_every_seed_is_read_or_refused_for_a_reason_while_it_is_whole(tmp_path):
    files = seeds()
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    failures = ImageLoader(size=8).transform(sorted(map(str, tmp_path.iterdir()))).failures()
    assert [Path(path).name for path in failures] == ["animated.png"]


def test_a_number_always_gives_the_same_file():
    files = seeds()
    assert [damaged(n, files) for n in range(99)] == [damaged(n, seeds()) for n in range(99)]
    assert len({content for _, content in (damaged(n, files) for n in range(500))}) > 450
