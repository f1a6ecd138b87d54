"""Fetching from a fake Kaggle server on the loopback interface."""

import base64
import hashlib
import io
import os
import shlex
import shutil
import subprocess
import sys
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

import kagglehub.clients
import numpy as np
import pytest
from kagglesdk import kaggle_env
from typer.testing import CliRunner

from cxr_sklearn.cli import app
from cxr_sklearn.datasets import kaggle
from cxr_sklearn.datasets.folder import load_folder
from cxr_sklearn.exceptions import DataUnavailableError

CHUNK = kagglehub.clients.CHUNK_SIZE
COUNTS = {"train": (1341, 3875), "val": (8, 8), "test": (234, 390)}
SMALL = {"train": (3, 3), "test": (2, 2)}
MANUAL = f"or download the zip at {kaggle.PAGE}, unpack it and give its folder chest_xray to the commands"


def archive_of(counts, padding=0):
    """Zip empty files in the layout of Kaggle's archive, with its second copy and the files that macOS adds."""
    names = [
        f"{split}/{name}"
        for split, (n_normal, n_pneumonia) in counts.items()
        for name in [f"NORMAL/IM-{i:04}-0001.jpeg" for i in range(n_normal)]
        + [f"PNEUMONIA/person{i}_virus_{i}.jpeg" for i in range(n_pneumonia)]
    ]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("chest_xray/noise", np.random.default_rng(0).bytes(padding))
        for name in names:
            archive.writestr(f"chest_xray/{name}", b"")
            archive.writestr(f"chest_xray/chest_xray/{name}", b"")
            if name.startswith("test"):
                archive.writestr(f"chest_xray/__MACOSX/{Path(name).parent}/._{Path(name).name}", b"")
    return buffer.getvalue()


class StandIn(ThreadingHTTPServer):
    """Serves Kaggle's API, which redirects to the archive, and the archive."""

    def __init__(self, archive):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.hold(archive)
        self.status = None
        self.breaks_off_at = None
        self.silent = None
        self.requests = []

    def hold(self, archive):
        self.archive = self.checksum_of = archive


class Handler(BaseHTTPRequestHandler):
    server: StandIn

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append(("POST", self.path))
        if self.server.silent:
            self.server.silent.wait(5)
        elif self.server.status:
            self.send_error(self.server.status)
        else:
            self.send_response(302)
            self.send_header("Location", f"{self.server.url}/archive.zip")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def do_GET(self):
        span = self.headers["Range"]
        self.server.requests.append(("GET", span))
        archive = self.server.archive
        start = int(span.removeprefix("bytes=").removesuffix("-")) if span else 0
        self.send_response(206 if span else 200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(archive) - start))
        if self.server.checksum_of:
            md5 = base64.b64encode(hashlib.md5(self.server.checksum_of).digest()).decode()
            self.send_header("x-goog-hash", f"crc32c=AAAAAA==,md5={md5}")
        self.end_headers()
        self.wfile.write(archive[start : self.server.breaks_off_at])

    def do_CONNECT(self):
        self.send_error(403)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A small set on a server that kagglehub uses in place of Kaggle, and a home without a login."""
    for name in [name for name in os.environ if name.lower().endswith("_proxy") or name.startswith("KAGGLE")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "kagglehub"))
    monkeypatch.setattr(kaggle, "N_IMAGES", 10)
    with StandIn(archive_of(SMALL, padding=3 * CHUNK)) as server:
        monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.PROD, server.url)
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def cached(tmp_path):
    """Folder in which kagglehub keeps the set."""
    return tmp_path / "kagglehub" / "datasets" / "paultimothymooney" / "chest-xray-pneumonia"


def fetch(*arguments):
    return CliRunner().invoke(app, ["fetch", *map(str, arguments)])


def fails(*arguments):
    """Return the one line that the command must write to stderr."""
    done = fetch(*arguments)
    assert done.exit_code == 1, done.output
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    return done.stderr.strip()


def gone(server, monkeypatch):
    """Stop the server."""
    server.shutdown()
    server.server_close()
    monkeypatch.setattr(server, "shutdown", lambda: None)


def test_the_whole_set_into_a_folder(stand_in, tmp_path):
    stand_in.hold(archive_of(COUNTS))
    folder = tmp_path / "my data"
    code = (
        "from kagglesdk import kaggle_env\n"
        f"kaggle_env._env_to_endpoint[kaggle_env.KaggleEnv.PROD] = {stand_in.url!r}\n"
        "from cxr_sklearn.cli import app\n"
        "app()\n"
    )
    done = subprocess.run([sys.executable, "-c", code, "fetch", folder], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    path = folder / "chest_xray"
    assert done.stdout == f"{kaggle.NOTICE}\nGo on with: cxr-sklearn check {shlex.quote(str(path))}\n"
    assert sorted(folder.iterdir()) == [path]
    frame = load_folder(path, sizes=False)
    found = {split: tuple(rows["label"].value_counts().sort_index()) for split, rows in frame.groupby("split")}
    assert found == COUNTS


def test_notice_names_licence_and_sources():
    assert "CC BY 4.0" in kaggle.NOTICE
    assert "https://doi.org/10.1016/j.cell.2018.02.010" in kaggle.NOTICE
    assert "https://doi.org/10.17632/rscbjbr9sj" in kaggle.NOTICE


@pytest.mark.parametrize("into_a_folder", [False, True])
def test_a_second_call_needs_no_network(into_a_folder, stand_in, cached, tmp_path, monkeypatch):
    directory = tmp_path / "set" if into_a_folder else None
    path = kaggle.fetch_chest_xray(directory)
    assert path == (directory or cached / "versions" / "2") / "chest_xray"
    assert len(load_folder(path)) == 10
    gone(stand_in, monkeypatch)
    assert kaggle.fetch_chest_xray(directory) == path


def test_a_folder_unpacked_by_hand_is_taken(stand_in, tmp_path, monkeypatch):
    gone(stand_in, monkeypatch)
    zipfile.ZipFile(io.BytesIO(stand_in.archive)).extractall(tmp_path / "set")
    assert kaggle.fetch_chest_xray(tmp_path / "set") == tmp_path / "set" / "chest_xray"


@pytest.mark.parametrize("into_a_folder", [False, True])
def test_a_download_that_broke_off_is_taken_up(into_a_folder, stand_in, tmp_path):
    stand_in.breaks_off_at = 2 * CHUNK + 1000
    arguments = [tmp_path / "set"] if into_a_folder else []
    assert fails(*arguments) == (
        "cxr-sklearn: the set could not be fetched from Kaggle: the connection failed (ChunkedEncodingError); call "
        f"again to go on where it stopped, {MANUAL}"
    )
    stand_in.breaks_off_at = None
    done = fetch(*arguments)
    assert done.exit_code == 0, done.output
    assert stand_in.requests[-1] == ("GET", f"bytes={2 * CHUNK}-")


def test_a_stopped_download_is_taken_up(stand_in, monkeypatch):
    def stop(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(kagglehub.clients.tqdm, "update", stop)
        done = fetch()
    assert done.exit_code not in (0, None)
    assert "Traceback" not in done.output
    assert fetch().exit_code == 0
    assert stand_in.requests[-1] == ("GET", f"bytes={CHUNK}-")


def test_a_stopped_unpacking_starts_again_without_another_download(stand_in, monkeypatch):
    def stop(archive, folder):
        archive.extract("chest_xray/noise", folder)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(zipfile.ZipFile, "extractall", stop)
        assert fetch().exit_code not in (0, None)
    stand_in.requests.clear()
    stand_in.breaks_off_at = 0  # only the size is requested
    assert fetch().exit_code == 0
    assert stand_in.requests[1:] == [("GET", None)]


@pytest.mark.parametrize("status", [403, 404, 429, 503])
def test_a_refusal(status, stand_in):
    stand_in.status = status
    line = fails()
    assert f"the server answered with status {status};" in line
    assert line.endswith(MANUAL)


def test_no_connection(stand_in, tmp_path, monkeypatch):
    gone(stand_in, monkeypatch)
    line = fails(tmp_path / "set")
    assert "the connection failed (ConnectionError);" in line
    assert line.endswith(MANUAL)
    assert not (tmp_path / "set" / "chest_xray").exists()


def test_a_proxy_that_refuses(stand_in, monkeypatch):
    monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.PROD, "https://kaggle.invalid")
    monkeypatch.setenv("HTTPS_PROXY", stand_in.url)
    assert "the connection failed (ProxyError);" in fails()


def test_a_server_that_says_nothing(stand_in, monkeypatch):
    monkeypatch.setattr(kaggle, "_TIMEOUT", (0.2, 0.2))
    stand_in.silent = Event()
    try:
        assert "the connection failed (ReadTimeout);" in fails()
    finally:
        stand_in.silent.set()


@pytest.mark.parametrize(("with_checksum", "reason"), [(True, "the actual MD5 checksum"), (False, "Bad CRC-32")])
def test_a_damaged_archive_is_not_kept(with_checksum, reason, stand_in, cached):
    whole = stand_in.archive
    stand_in.archive = whole[:CHUNK] + b"scratched" + whole[CHUNK + 9 :]
    stand_in.checksum_of = whole if with_checksum else None
    line = fails()
    assert reason in line
    assert f"; nothing is kept of this download, call again to start anew, {MANUAL}" in line
    assert not (cached / "2.archive").exists()
    stand_in.archive = whole
    assert fetch().exit_code == 0


def test_a_full_disk(stand_in, cached):
    cached.mkdir(parents=True)
    (cached / "2.archive").symlink_to("/dev/full")
    line = fails()
    assert "the disk is full, and about 5 GB are needed; call again to go on where it stopped" in line


def test_a_folder_that_cannot_be_made(stand_in, tmp_path):
    (tmp_path / "file").touch()
    assert f"Not a directory: '{tmp_path / 'file'}" in fails(tmp_path / "file")


@pytest.mark.parametrize("into_a_folder", [False, True])
def test_a_wrong_number_of_images(into_a_folder, stand_in, cached, tmp_path):
    whole = stand_in.archive
    stand_in.hold(archive_of({"train": (3, 2), "test": (2, 2)}))
    arguments = [tmp_path / "set"] if into_a_folder else []
    rubbish = tmp_path / "set" / ".kagglehub" if into_a_folder else cached / "versions" / "2"
    line = fails(*arguments)
    assert "chest_xray holds 9 images, not 10; choose another folder" in line
    assert f"or remove {rubbish} if it is no longer wanted" in line
    assert fails(*arguments) == line
    shutil.rmtree(rubbish)
    stand_in.hold(whole)
    assert fetch(*arguments).exit_code == 0


def test_an_archive_of_something_else(stand_in, cached):
    stand_in.hold(archive_of({}))
    assert "chest_xray holds 0 images, not 10" in fails()


def test_files_that_are_there_are_left_alone(stand_in, tmp_path):
    (tmp_path / "set" / "chest_xray" / "train" / "NORMAL").mkdir(parents=True)
    (tmp_path / "set" / "chest_xray" / "train" / "NORMAL" / "IM-0001-0001.jpeg").touch()
    path = tmp_path / "set" / "chest_xray"
    assert f"{path} holds 1 image, not 10; choose another folder, or remove {path} if" in fails(tmp_path / "set")
    assert len(load_folder(path)) == 1
    assert not stand_in.requests


def test_without_kagglehub(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    monkeypatch.setitem(sys.modules, "kagglehub.cache", None)
    assert fails() == ("cxr-sklearn: fetching from Kaggle needs kagglehub; run pip install 'cxr-sklearn[kaggle]'")
    with pytest.raises(DataUnavailableError):
        kaggle.fetch_chest_xray(tmp_path)


def test_progress_on_a_terminal(stand_in, monkeypatch):
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", terminal)
    kaggle.fetch_chest_xray()
    assert "100%" in terminal.getvalue()


def test_settings_are_put_back(stand_in, tmp_path):
    before = dict(os.environ)
    send = kagglehub.clients.requests.adapters.HTTPAdapter.send
    stand_in.status = 503
    with pytest.raises(DataUnavailableError, match="status 503"):
        kaggle.fetch_chest_xray(tmp_path / "set")
    assert dict(os.environ) == before
    assert kagglehub.clients.requests.adapters.HTTPAdapter.send is send
