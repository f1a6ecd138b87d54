"""Fetching by a stand-in for kagglehub, which the process of the download imports instead."""

import http.server
import os
import shlex
import shutil
import sys
import threading
import urllib.request

import pytest
from typer.testing import CliRunner

from cxr_sklearn.cli import app
from cxr_sklearn.datasets import kaggle
from cxr_sklearn.datasets.folder import load_folder
from cxr_sklearn.exceptions import DataUnavailableError

AGAIN = (
    f"call again to resume it, or download the zip at {kaggle.PAGE}, unpack it and give its folder "
    "chest_xray to the commands"
)
#: Unpacks 10 images in the layout of Kaggle's archive, with its second copy and what macOS adds.
STAND_IN = """
import os, pathlib, sys

def dataset_download(handle):
    with open(os.environ["CALLS"], "a") as calls:
        print(handle, os.environ["KAGGLEHUB_CACHE"], os.environ["KAGGLEHUB_VERBOSITY"], file=calls)
    print("100%", file=sys.stderr)
    folder = pathlib.Path(os.environ["KAGGLEHUB_CACHE"]) / "datasets" / "versions" / "2"
    for split, n in (("train", 3), ("test", 2)):
        for copy in ("chest_xray", "chest_xray/chest_xray", "chest_xray/__MACOSX"):
            for name in ("NORMAL/IM-{}-0001.jpeg", "PNEUMONIA/person{}_virus_1.jpeg"):
                for i in range(n):
                    file = folder / copy / split / name.format(i)
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.touch()
    exec(os.environ.get("THEN", ""))
    sys.stdout.write("Warning: a newer kagglehub is there")
    return str(folder)
"""


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """What the stand-in was asked for, one line a call."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "kagglehub.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(tmp_path / "modules")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "modules"), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "kagglehub"))
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.setattr(kaggle, "N_IMAGES", 10)
    return lambda: (tmp_path / "calls").read_text().splitlines() if (tmp_path / "calls").exists() else []


def fetch(*arguments):
    return CliRunner().invoke(app, ["fetch", *map(str, arguments)])


def fails(*arguments):
    """Return the single line that the command must leave on stderr."""
    done = fetch(*arguments)
    assert done.exit_code == 1, done.output
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    return done.stderr.strip()


def test_the_set_into_a_folder(calls, tmp_path, capfd):
    folder = tmp_path / "my data"
    done = fetch(folder)
    path = folder / "chest_xray"
    assert (done.exit_code, done.stderr, capfd.readouterr()) == (0, "", ("", ""))
    assert done.stdout == f"{kaggle.NOTICE}\nGo on with: cxr-sklearn check {shlex.quote(str(path))}\n"
    assert sorted(folder.iterdir()) == [path]
    assert load_folder(path)["split"].value_counts().to_dict() == {"train": 6, "test": 4}
    assert calls() == [f"{kaggle.HANDLE} {folder / '.kagglehub'} critical"]


def test_notice_names_licence_and_sources():
    assert "CC BY 4.0" in kaggle.NOTICE
    assert "https://doi.org/10.1016/j.cell.2018.02.010" in kaggle.NOTICE
    assert "https://doi.org/10.17632/rscbjbr9sj" in kaggle.NOTICE


def test_without_a_folder_it_stays_where_kagglehub_keeps_it(calls, tmp_path):
    path = kaggle.fetch_chest_xray()
    assert path == tmp_path / "kagglehub" / "datasets" / "versions" / "2" / "chest_xray"
    assert kaggle.fetch_chest_xray() == path


def test_a_folder_that_is_there_is_taken(calls, tmp_path, monkeypatch):
    """After an earlier call, or unpacked by hand."""
    path = kaggle.fetch_chest_xray(tmp_path / "set")
    monkeypatch.chdir(tmp_path)
    assert kaggle.fetch_chest_xray("set").absolute() == path
    assert len(calls()) == 1


def test_a_relative_folder(calls, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "subprocess.py").write_text("raise SystemExit('a file of the user was imported')")
    assert kaggle.fetch_chest_xray("set").absolute() == tmp_path / "set" / "chest_xray"


@pytest.mark.parametrize(
    ("then", "reason"),
    [
        ("raise ConnectionError('no route\\nto host')", "ConnectionError: no route to host"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt:"),
        ("os._exit(3)", "exit status 3"),
    ],
)
def test_a_download_that_fails_is_taken_up(calls, tmp_path, monkeypatch, then, reason):
    monkeypatch.setenv("THEN", then)
    assert fails(tmp_path / "set") == f"cxr-sklearn: the set could not be fetched from Kaggle: {reason}; {AGAIN}"
    assert not (tmp_path / "set" / "chest_xray").exists()
    monkeypatch.delenv("THEN")
    assert fetch(tmp_path / "set").exit_code == 0
    assert len(set(calls())) == 1  # in the same place, where kagglehub keeps the first part


def test_a_folder_that_cannot_be_made(calls, tmp_path):
    (tmp_path / "file").touch()
    assert f"Not a directory: '{tmp_path / 'file'}" in fails(tmp_path / "file")


@pytest.mark.parametrize("into_a_folder", [False, True])
def test_a_wrong_number_of_images(into_a_folder, calls, tmp_path, monkeypatch):
    monkeypatch.setenv("THEN", "(folder / 'chest_xray/train/NORMAL/IM-1-0001.jpeg').unlink();"
                               "(folder / 'chest_xray/chest_xray/train/NORMAL/IM-1-0001.jpeg').unlink()")  # fmt: skip
    arguments = [tmp_path / "set"] if into_a_folder else []
    rubbish = tmp_path / ("set/.kagglehub" if into_a_folder else "kagglehub/datasets/versions/2")
    line = fails(*arguments)
    assert "chest_xray holds 9 images, not 10; choose another folder" in line
    assert f"or remove {rubbish} if it is no longer wanted" in line
    shutil.rmtree(rubbish)
    monkeypatch.delenv("THEN")
    assert fetch(*arguments).exit_code == 0


def test_files_that_are_there_are_left_alone(calls, tmp_path):
    path = tmp_path / "set" / "chest_xray"
    (path / "train" / "NORMAL").mkdir(parents=True)
    (path / "train" / "NORMAL" / "IM-0001-0001.jpeg").touch()
    assert f"{path} holds 1 image, not 10; choose another folder, or remove {path} if" in fails(tmp_path / "set")
    assert len(load_folder(path)) == 1
    assert not calls()


def test_without_kagglehub(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    assert fails() == "cxr-sklearn: fetching from Kaggle needs kagglehub; run pip install 'cxr-sklearn[kaggle]'"
    with pytest.raises(DataUnavailableError):
        kaggle.fetch_chest_xray(tmp_path)


def test_progress_on_a_terminal(calls, monkeypatch, capfd):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    kaggle.fetch_chest_xray()
    assert capfd.readouterr() == ("", "100%\n")


def test_other_threads_are_not_disturbed(calls, tmp_path, monkeypatch, capsys):
    """Neither their downloads nor what they print nor the environment."""
    before, read, fetched = dict(os.environ), threading.Event(), threading.Event()

    class Slow(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "200000")
            self.end_headers()
            self.wfile.write(b"x" * 100_000)
            fetched.wait(60)  # the second half comes after the set
            self.wfile.write(b"x" * 100_000)

        def log_message(self, *arguments):
            pass

    sizes = []

    def download():
        with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}") as answer:
            sizes.append(len(answer.read(1000)))
            read.set()
            while not calls():  # kagglehub is at work
                assert dict(os.environ) == before
            print("a line of another thread")
            sizes.append(len(answer.read()))

    monkeypatch.setenv("no_proxy", "*")
    before["no_proxy"] = "*"
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Slow) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        other = threading.Thread(target=download)
        other.start()
        read.wait(60)
        kaggle.fetch_chest_xray(tmp_path / "set")
        fetched.set()
        other.join(60)
        server.shutdown()
    assert sizes == [1000, 199_000]
    assert capsys.readouterr().out == "a line of another thread\n"
    assert dict(os.environ) == before
