"""What all commands share: streams, paths and errors."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import cxr_sklearn
from cxr_sklearn import _progress
from cxr_sklearn.cli import app

from ..conftest import write_image

CLI = [sys.executable, "-m", "cxr_sklearn.cli"]
CYRILLIC = "\u0421\u043d\u0438\u043c\u043a\u0438"


@pytest.fixture
def radiographs(tmp_path):
    for i in range(3):
        write_image(tmp_path / CYRILLIC / "train" / "NORMAL" / f"IM-{i:04d}-0001.png", seed=i)
        write_image(tmp_path / CYRILLIC / "train" / "PNEUMONIA" / f"person{i}_virus_1.png", seed=9 + i)
    return tmp_path / CYRILLIC


def run(folder, *arguments, **variables):
    environment = {**os.environ, "PYTHONUTF8": "0", **variables}
    return subprocess.run([*CLI, *arguments], cwd=folder, env=environment, capture_output=True, check=False)


def shell(command):
    """Run a command with redirections, and return its status and what it wrote to a stderr that is not redirected."""
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


@pytest.mark.parametrize("encoding", ["cp1252", "cp932", "ascii:surrogateescape"])
def test_what_the_encoding_of_stdout_lacks_is_escaped(radiographs, encoding):
    done = run(radiographs.parent, "check", CYRILLIC, PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    shown = done.stdout.decode(encoding.partition(":")[0])
    assert f"6 images of 6 patients in {CYRILLIC if encoding == 'cp932' else ascii(CYRILLIC)[1:-1]}" in shown


def test_what_the_encoding_of_stderr_lacks_is_escaped(tmp_path):
    done = run(tmp_path, "check", CYRILLIC, PYTHONIOENCODING="ascii")
    assert done.returncode == 1
    assert done.stderr.decode() == f"cxr-sklearn: {ascii(CYRILLIC)[1:-1]} does not exist\n"


def test_help_in_a_narrow_encoding(tmp_path):
    done = run(tmp_path, "compare", "--help", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"--allow-leaks" in done.stdout


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams(radiographs, closed):
    store = radiographs.parent / "store"
    status, said = shell(f"{' '.join(CLI)} check '{radiographs}' --store '{store}' {closed}")
    assert (status, said) == (0, "")
    # A file of the store must not have got the number of a closed stream, and what is printed into it.
    assert all(path.read_bytes()[:15] == b"SQLite format 3" for path in store.glob("*.sqlite"))
    assert not list(store.glob("*.damaged"))


def test_programs_without_streams(radiographs):
    """As pythonw starts them: all three are None."""
    code = (
        "import sys; sys.stdin = sys.stdout = sys.stderr = None; from cxr_sklearn.cli import app; "
        "sys.argv = ['cxr-sklearn', 'check', sys.argv[1]]; app()"
    )
    done = subprocess.run([sys.executable, "-c", code, radiographs], capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.parametrize("arguments", ["--help", "check IMAGES --json"])
def test_a_reader_that_has_gone(radiographs, arguments):
    command = f"{' '.join(CLI)} {arguments}".replace("IMAGES", f"'{radiographs}'")
    assert shell(f"{command} | true") == (1, "")


@pytest.mark.parametrize("arguments", ["--help", "check IMAGES --json"])
def test_a_full_disk_behind_stdout(radiographs, arguments):
    command = f"{' '.join(CLI)} {arguments}".replace("IMAGES", f"'{radiographs}'")
    status, said = shell(f"{command} > /dev/full")
    assert status == 1
    assert said.splitlines() == ["cxr-sklearn: [Errno 28] No space left on device"]


def test_messages_that_nobody_can_read_do_not_end_a_run(radiographs, tmp_path):
    (tmp_path / "labels.csv").write_text(f"path,label,patient\n{CYRILLIC}/train/NORMAL/IM-0000-0001.png,0,P1\n")
    for lost in ("2> /dev/full", "2> >(exec true)"):
        status, _ = shell(f"{' '.join(CLI)} check '{radiographs}' {lost}")
        assert status == 0


class TestTilde:
    def test_what_the_shell_leaves_to_us(self, radiographs, tmp_path):
        (tmp_path / "home").mkdir()
        variables = {"HOME": str(tmp_path / "home"), "CXR_SKLEARN_CACHE": "~/cache"}
        options = ["--train", "2", "--val", "0", "--test", "0"]
        assert run(tmp_path, "subset", CYRILLIC, "~/small", *options, **variables).returncode == 0
        done = run(tmp_path, "check", "~/small", "--json", **variables)
        assert json.loads(done.stdout)["images"] == 4
        assert sorted(path.name for path in (tmp_path / "home").iterdir()) == ["cache", "small"]
        assert not (tmp_path / "~").exists()

    def test_an_unknown_home_is_wrong_usage(self, tmp_path):
        code = (
            "import os, sys; os.path.expanduser = str; from cxr_sklearn.cli import app; "
            "sys.argv = ['cxr-sklearn', 'report', '~/run']; app()"
        )
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert "the home folder that ~ stands for is not known" in " ".join(done.stderr.replace("│", "").split())
        assert list(Path(tmp_path).iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["explain", "absent.skops", "a.png", "-o", "heat.bmp"], "cannot be written as .bmp"),
        (["explain", "absent.skops", "a.png", "-o", "absent/heat.png"], "absent does not exist"),
        (
            ["compare", "IMAGES", "--pipeline", "shortcuts", "--out", "report.html"],
            "report.html has the ending of a file",
        ),
        (["compare", "--pipeline", "shortcuts", "--out", "run.zip"], "run.zip has the ending of a file"),
        (
            ["learning-curve", "IMAGES", "--out", "curve.csv", "--weights", "random"],
            "curve.csv has the ending of a file",
        ),
        (["subset", "IMAGES", "small.zip", "--train", "1", "--val", "0", "--test", "0"], "small.zip has the ending"),
        (["synth", "images.zip"], "images.zip has the ending of a file"),
        (["train", "IMAGES", "--pipeline", "shortcuts", "--save", "model.pkl"], "must end in .skops or .joblib"),
    ],
)
def test_outputs_of_another_format_are_refused_before_the_work(radiographs, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, [str(radiographs) if word == "IMAGES" else word for word in arguments])
    assert (done.exit_code, message in done.stderr) == (1, True), done.output
    assert list(tmp_path.iterdir()) == [radiographs]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("set.zip", "is an archive; unpack it, and give the folder"),
        ("set.tar.gz", "is an archive"),
        ("scan.jpeg", "is an image; give a folder of images, or score this one with `cxr-sklearn predict`"),
        ("scan.DCM", "is an image"),
        ("labels.xlsx", "is not a CSV file; save the table as one"),
    ],
)
def test_images_of_another_kind_get_a_sentence_that_fits(tmp_path, name, message):
    (tmp_path / name).write_bytes(b"PK")
    done = CliRunner().invoke(app, ["check", str(tmp_path / name)])
    assert (done.exit_code, message in done.stderr) == (1, True), done.stderr
    (tmp_path / "is.zip" / "NORMAL").mkdir(parents=True)
    write_image(tmp_path / "is.zip" / "NORMAL" / "a.png")  # a folder may be called anything
    assert len(CliRunner().invoke(app, ["check", str(tmp_path / "is.zip")]).stderr) == 0


@pytest.mark.parametrize("module", ["cxr_sklearn", "cxr_sklearn.cli"])
def test_the_version(module):
    done = subprocess.run([sys.executable, "-m", module, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"cxr-sklearn {cxr_sklearn.__version__}\n"


def test_the_name_in_the_help():
    done = subprocess.run([sys.executable, "-m", "cxr_sklearn"], capture_output=True, text=True, check=False)
    assert "Usage: cxr-sklearn [OPTIONS] COMMAND" in done.stdout


@pytest.mark.parametrize("quiet", [False, True])
def test_lines_of_progress_in_a_log(radiographs, monkeypatch, quiet):
    """A minute is over with every look at the clock."""
    times = itertools.count(0, 61)
    monkeypatch.setattr(_progress, "monotonic", lambda: float(next(times)))
    monkeypatch.setattr(_progress, "_log", _progress._Log())
    done = CliRunner().invoke(app, ["check", str(radiographs), *["--quiet"] * quiet])
    assert done.exit_code == 0
    assert ("Checking images: 0 of 6" in done.stderr) != quiet
