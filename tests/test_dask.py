"""Embedding and searching on a Dask cluster of two processes on this machine."""

import os
import re
import signal
import socket
from contextlib import nullcontext
from pathlib import Path

import joblib
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from typer.testing import CliRunner

from cxr_sklearn import FeatureStore, FrozenEmbedder, ImageLoader, load_model, write_radiographs
from cxr_sklearn.cli import app
from cxr_sklearn.cli.app import for_workers

from .conftest import ROOT

distributed = pytest.importorskip("distributed", reason="needs the extra dask")
pytestmark = [
    pytest.mark.keras,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # about the killed worker's sockets
]


@pytest.fixture(scope="module")
def client():
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def frame(tmp_path_factory):
    return write_radiographs(tmp_path_factory.mktemp("radiographs"), 40, size=48, random_state=0)


def embedder(store):
    return FrozenEmbedder("MobileNet", weights="random", precision="float32", batch_size=4, store=store)


@pytest.fixture(scope="module")
def alone(frame):
    return make_pipeline(ImageLoader(size=32), embedder(None)).fit_transform(frame["path"])


def test_the_features_are_those_of_one_process(client, frame, alone, tmp_path):
    pipeline = make_pipeline(ImageLoader(size=32), embedder(tmp_path))
    with joblib.parallel_config("dask"):
        features = pipeline.fit_transform(frame["path"])
    np.testing.assert_array_equal(features, alone)
    assert pipeline[-1].n_embedded_ == len(frame)
    assert pipeline.fit_transform(frame["path"]).shape == features.shape
    assert pipeline[-1].n_embedded_ == 0


def test_a_worker_that_dies(client, frame, alone, tmp_path, monkeypatch):
    claim, killed = FeatureStore.claim, []

    def claim_and_kill(self, keys):
        if not killed:  # the first rows are stored, others are being computed
            killed.extend(client.run(os.getpid).values())
            os.kill(killed[0], signal.SIGKILL)
        return claim(self, keys)

    monkeypatch.setattr(FeatureStore, "claim", claim_and_kill)
    pipeline = make_pipeline(ImageLoader(size=32), embedder(tmp_path))
    with joblib.parallel_config("dask"):
        features = pipeline.fit_transform(frame["path"])
    np.testing.assert_array_equal(features, alone)
    assert pipeline[-1].n_embedded_ == len(frame)
    assert len(pipeline[-1]._store()) == len(frame)


def test_a_search(client, frame, alone, tmp_path):
    pipeline = make_pipeline(ImageLoader(size=32), embedder(tmp_path), LogisticRegression(max_iter=2000))
    search = GridSearchCV(pipeline, {"logisticregression__C": [0.01, 1]}, cv=3)
    with joblib.parallel_config("dask"):
        search.fit(frame["path"], frame["target"])
    here = GridSearchCV(LogisticRegression(max_iter=2000), {"C": [0.01, 1]}, cv=3).fit(alone, frame["target"])
    np.testing.assert_array_equal(search.cv_results_["mean_test_score"], here.cv_results_["mean_test_score"])
    assert len(pipeline[1].fit(pipeline[0].transform(frame["path"][:1]))._store()) == len(frame)


def test_the_lines_of_the_documentation(client, tmp_path, monkeypatch, capsys):
    """On the existing cluster: a second one could not start beside it."""
    page = ROOT / "docs" / "how-to" / "cluster.md"
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    write_radiographs(tmp_path / "radiographs", n_patients=40, size=64, random_state=0)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CXR_SKLEARN_CACHE", str(tmp_path / "store"))
    monkeypatch.setattr("dask.distributed.LocalCluster", lambda **options: nullcontext())
    monkeypatch.setattr("dask.distributed.Client", lambda cluster: nullcontext())
    namespace = {"__name__": "__main__"}
    for block in blocks:
        exec(compile(block, "docs/how-to/cluster.md", "exec"), namespace)
    assert 0 <= float(capsys.readouterr().out) <= 1
    assert namespace["model"][-2].n_embedded_ == 0  # by then everything is in the store
    assert len(namespace["features"]) == len(namespace["frame"])


def executed(client):
    """How many tasks the workers have done."""
    return sum(client.run(lambda dask_worker: dask_worker.state.executed_count).values())


def test_paths_of_the_shell_are_absolute_for_workers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert for_workers("tcp://...", Path("images"), Path("kept"), "VGG16.h5") == (
        tmp_path / "images", tmp_path / "kept", str(tmp_path / "VGG16.h5"),
    )  # fmt: skip
    assert for_workers("tcp://...", Path("images"), None, "imagenet")[1:] == (None, "imagenet")
    assert for_workers(None, Path("images"), "auto", "VGG16.h5") == (Path("images"), "auto", "VGG16.h5")


def test_commands_of_the_shell(client, tmp_path, monkeypatch):
    """Relative paths of images and store are found by workers, which have another working directory."""
    monkeypatch.chdir(tmp_path)
    write_radiographs("images", 30, size=48, random_state=0)
    Path("mine.py").write_text(
        "from sklearn.linear_model import LogisticRegression\n"
        "from sklearn.pipeline import make_pipeline\n"
        "from cxr_sklearn import FrozenEmbedder, ImageLoader\n"
        "def build(store, weights):\n"
        "    embedder = FrozenEmbedder('MobileNet', weights=weights, precision='float32', batch_size=4, store=store)\n"
        "    return make_pipeline(ImageLoader(size=32), embedder, LogisticRegression())\n"
    )
    address = client.scheduler.address
    words = ["images", "--pipeline", "mine.py", "--weights", "random", "--store", "kept", "--quiet"]
    alone = CliRunner().invoke(app, ["train", *words, "--folds", "2", "--save", "alone.skops", "--store", "other"])
    assert alone.exit_code == 0, alone.output
    before = executed(client)
    done = CliRunner().invoke(app, ["train", *words, "--folds", "2", "--save", "m.skops", "--cluster", address])
    assert done.exit_code == 0, done.output
    assert executed(client) > before
    found, wanted = (load_model(name, store=None).metadata["metrics"] for name in ("m.skops", "alone.skops"))
    assert found == wanted


def test_a_cluster_that_does_not_answer(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    for given in (address, "nowhere"):
        words = ["train", str(tmp_path), "--pipeline", "shortcuts", "--save", "m.skops", "--cluster", given]
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 1
        assert f"no Dask scheduler answers at {given}" in done.output
