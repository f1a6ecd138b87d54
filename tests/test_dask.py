"""Embedding and searching on a Dask cluster of two processes on this machine."""

import os
import signal

import joblib
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from cxr_sklearn import FeatureStore, FrozenEmbedder, ImageLoader, write_radiographs

distributed = pytest.importorskip("distributed", reason="needs the extra dask")
pytestmark = [
    pytest.mark.keras,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # of the killed worker's sockets
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
        if not killed:  # the first rows are here, others are being computed
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
