"""Serve a model as the command does, send it images, and print as JSON the answers and all writes meanwhile.

python -m tests.serve.watched MODEL FOLDER IMAGE...

FOLDER contains every place that could be written to.
"""

import json
import os
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import uvicorn

from cxr_sklearn import load_model
from cxr_sklearn.cli import app

from .conftest import ADDRESS

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
#: SQLite and other libraries open files unseen by Python.
_CHANGES = ("os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate",
            "sqlite3.connect", "subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn")  # fmt: skip


class Watch:
    """Record every write that Python is asked for inside the block; an audit hook can never be removed."""

    def __init__(self):
        self._noted = None
        sys.addaudithook(self._note)

    def __enter__(self):
        self._noted = noted = []
        return noted

    def __exit__(self, *error):
        self._noted = None

    def _note(self, event, args):
        if self._noted is None:
            return
        if event in _CHANGES or (event == "open" and args[2] & _WRITING):
            self._noted.append(f"{event} {args[0]}")


def below(folder):
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


def main(model, folder, *images):
    from fastapi.testclient import TestClient

    found = {}

    def answer(server, sockets):
        client = TestClient(server.config.app, base_url=ADDRESS)
        files = [("files", (Path(path).name, Path(path).read_bytes())) for path in images]
        before = below(Path(folder))
        with watch as written:
            response = client.post("/predict", files=files, params={"heat": True, "picture": True})
        changed = sorted(before.items() ^ below(Path(folder)).items())
        found.update(answers=response.json()["results"], written=written, changed=changed)

    watch = Watch()
    with mock.patch.object(uvicorn.Server, "run", answer):
        app(["serve", model, "--trust", "--port", "0"], standalone_mode=False)
    before = below(Path(folder))
    with watch as written:  # to show that writes are recorded
        loaded = load_model(model, trusted=True)
        loaded.domain.set_params(store="auto")
        stores = [name for name in loaded.pipeline.get_params() if name.split("__")[-1] == "store"]
        loaded.pipeline.set_params(**dict.fromkeys(stores, "auto"))
        loaded.domain.predict(np.zeros((1, 80, 80), dtype=np.uint8))
        loaded.pipeline.predict_proba(images[:1])
    print(
        json.dumps({**found, "with_a_store": written, "changed_with_a_store": len(below(Path(folder))) - len(before)})
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
