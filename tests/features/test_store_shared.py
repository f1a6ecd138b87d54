"""Missing images distributed among workers: the same rows, each computed once, and only the caller writes."""

import os

import joblib
import numpy as np
import pytest

from cxr_sklearn import FeatureStore, ImageLoader
from cxr_sklearn.features.store import NoStore, readable_rows

from ..conftest import write_image


def compute(chunk, images):
    """Return two numbers for each image, the size of its chunk, and the process that computed them."""
    pixels = np.stack(images).astype(np.float32)
    rows = [pixels.mean(axis=(1, 2, 3)), pixels.std(axis=(1, 2, 3)), np.full(len(images), len(images)),
            np.full(len(images), os.getpid() % 100_000)]  # fmt: skip
    return np.stack(rows, axis=1).astype(np.float32)


@pytest.fixture
def paths(tmp_path):
    return [write_image(tmp_path / f"{i}.png", seed=i % 9, size=(20, 20)) for i in range(11)]


def rows_of(paths, store, n_jobs=None):
    batch = ImageLoader(size=16).transform(paths)
    return readable_rows(batch, store, compute, chunk_size=2, n_jobs=n_jobs)


@pytest.mark.parametrize("backend", ["loky", "multiprocessing"])  # the second cannot give answers one by one
def test_the_rows_are_those_of_one_process(backend, paths, tmp_path):
    alone, n_alone, _ = rows_of(paths, NoStore())
    store = FeatureStore(tmp_path / "store", "measures", {})
    with joblib.parallel_config(backend):
        shared, n_shared, failures = rows_of(paths, store, n_jobs=2)
    np.testing.assert_array_equal(shared[:, :3], alone[:, :3])
    assert (n_alone, n_shared, len(store), failures) == (9, 9, 9, {})
    assert os.getpid() % 100_000 not in shared[:, 3]
    again, n_again, _ = rows_of(paths, store, n_jobs=2)
    np.testing.assert_array_equal(again, shared)
    assert n_again == 0


def test_what_others_have_computed_meanwhile_is_taken(paths, tmp_path, monkeypatch):
    store = FeatureStore(tmp_path / "store", "measures", {})
    claim, others = FeatureStore.claim, []

    def claim_late(self, keys):
        if not others:
            with claim(self, keys) as (missing, rows):
                others.extend(missing)
                rows |= {key: np.zeros(4, dtype=np.float32) for key in missing}
        return claim(self, keys)

    monkeypatch.setattr(FeatureStore, "claim", claim_late)
    rows, n_computed, _ = rows_of(paths, store, n_jobs=2)
    assert len(others) == 2
    assert n_computed == 7
    assert (rows[:, 1] == 0).sum() >= 2


def test_unreadable_images_are_reported_and_the_others_kept(paths, tmp_path):
    for i in (3, 8):
        with open(paths[i], "r+b") as file:  # noqa: PTH123
            file.truncate(60)
    store = FeatureStore(tmp_path / "store", "measures", {})
    rows, _, failures = rows_of(paths, store, n_jobs=2)
    assert set(failures) == {paths[3], paths[8]}
    assert len(store) == 7
    assert not rows[[3, 8]].any()
