"""Embedding and searching with Ray on this machine."""

import os
import signal

import joblib
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from cxr_sklearn import FrozenEmbedder, ImageLoader, write_radiographs

ray = pytest.importorskip("ray", reason="needs Ray, which no extra of this package installs")
psutil = pytest.importorskip("psutil")
pytestmark = [pytest.mark.keras, pytest.mark.slow, pytest.mark.filterwarnings("ignore::ResourceWarning")]
#: As docs/how-to/cluster.md gives them.
OPTIONS = {"n_jobs": -1, "ray_remote_args": {"max_restarts": -1, "max_task_retries": -1}}


@pytest.fixture(scope="module", autouse=True)
def session():
    from ray.util.joblib import register_ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        register_ray()
        yield
        ray.shutdown()


@pytest.fixture(scope="module")
def frame(tmp_path_factory):
    return write_radiographs(tmp_path_factory.mktemp("radiographs"), 40, size=48, random_state=0)


def embedder(store):
    return FrozenEmbedder("MobileNet", weights="random", precision="float32", batch_size=4, store=store)


@pytest.fixture(scope="module")
def alone(frame):
    return make_pipeline(ImageLoader(size=32), embedder(None)).fit_transform(frame["path"])


def test_a_worker_that_dies(frame, alone, tmp_path, monkeypatch):
    from ray.util.multiprocessing import Pool  # what joblib's pool is made of

    apply_async, calls, killed = Pool.apply_async, [], []

    def apply_and_kill(self, *args, **options):
        calls.append(args)
        if len(calls) == 6:  # four tasks are given out at first, another one whenever an answer comes
            family = psutil.Process().children(recursive=True)
            killed.extend(process.pid for process in family if process.name().startswith("ray::PoolActor"))
            os.kill(killed[0], signal.SIGKILL)
        return apply_async(self, *args, **options)

    monkeypatch.setattr(Pool, "apply_async", apply_and_kill)
    pipeline = make_pipeline(ImageLoader(size=32), embedder(tmp_path))
    with joblib.parallel_config("ray", **OPTIONS):
        features = pipeline.fit_transform(frame["path"])
    np.testing.assert_array_equal(features, alone)
    assert killed
    assert pipeline[-1].n_embedded_ == len(pipeline[-1]._store()) == len(frame)


def test_a_search(frame, alone, tmp_path):
    pipeline = make_pipeline(ImageLoader(size=32), embedder(tmp_path), LogisticRegression(max_iter=2000))
    pipeline[:-1].fit_transform(frame["path"])
    search = GridSearchCV(pipeline, {"logisticregression__C": [0.01, 1]}, cv=3)
    with joblib.parallel_config("ray", **OPTIONS):
        search.fit(frame["path"], frame["target"])
    here = GridSearchCV(LogisticRegression(max_iter=2000), {"C": [0.01, 1]}, cv=3).fit(alone, frame["target"])
    np.testing.assert_array_equal(search.cv_results_["mean_test_score"], here.cv_results_["mean_test_score"])
