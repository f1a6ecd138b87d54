from pathlib import Path

import numpy as np
import pytest

from cxr_sklearn import FeatureStore, ImageLoader
from cxr_sklearn.features.store import NoStore, readable_rows

from ..conftest import write_image


class Counted:
    """Computes mean and maximum of each image, and counts the images."""

    def __init__(self):
        self.chunks = []

    def __call__(self, batch, images):
        assert len(batch) == len(images)
        self.chunks.append(len(images))
        return np.array([(image.mean(), image.max()) for image in images], dtype=np.float32)


@pytest.fixture
def paths(tmp_path):
    return [write_image(tmp_path / f"{i}.png", seed=i) for i in range(10)]


@pytest.fixture
def store(tmp_path):
    return FeatureStore(tmp_path / "store", "means", {})


def run(paths, store, compute, chunk_size=4):
    steps = []
    batch = ImageLoader(size=8).transform(paths)
    rows, n, failures = readable_rows(batch, store, compute, chunk_size=chunk_size, advance=steps.append)
    assert sum(steps) == len(paths)
    return rows, n, failures


def test_each_image_is_computed_once(paths, store):
    compute = Counted()
    rows, n, _ = run([*paths, *paths[:3]], store, compute)
    assert (n, compute.chunks) == (10, [4, 4, 2])
    expected = np.array([(image.mean(), image.max()) for image in np.asarray(ImageLoader(size=8).transform(paths))])
    np.testing.assert_allclose(rows, np.concatenate([expected, expected[:3]]), rtol=1e-6)
    again, n, failures = run(paths[::-1], store, compute)
    assert failures == {}
    assert (n, compute.chunks) == (0, [4, 4, 2])
    np.testing.assert_array_equal(again, rows[9::-1])


def test_only_missing_images_are_computed(paths, store):
    compute = Counted()
    run(paths[2:5], store, compute)
    assert run(paths, store, compute)[1] == 7


def test_without_a_store_nothing_is_kept(paths):
    compute = Counted()
    rows, n, _ = run([*paths, paths[0]], NoStore(), compute)
    assert n == 10
    np.testing.assert_array_equal(rows[0], rows[10])
    assert run(paths, NoStore(), compute)[1] == 10


def test_readable_images_are_kept_and_all_others_named(paths, store, tmp_path):
    (tmp_path / "text.jpeg").write_text("not an image")
    whole = Path(write_image(tmp_path / "cut.png", size=(64, 64))).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    bad = [str(tmp_path / name) for name in ("text.jpeg", "absent.png", "cut.png")]
    compute = Counted()
    rows, _, failures = run([bad[0], *paths[:5], bad[1], *paths[5:], bad[2]], store, compute)
    assert set(failures) == set(bad)
    assert not rows[[0, 6, 12]].any()
    assert run(paths, store, compute)[1] == 0


def test_another_process_may_finish_first(paths, store):
    """Rows that another process wrote between the first look and the claim are used, not computed again."""
    slow, quick = Counted(), Counted()

    def interrupted(batch, images):
        return slow(batch, images)

    class LateStore(FeatureStore):
        def read(self, keys):
            answer = super().read(keys)
            if not quick.chunks:
                run(paths[:6], store, quick)
            return answer

    late = LateStore(store.path.parent, "means", {})
    rows, n, _ = run(paths, late, interrupted)
    assert n == 4
    assert np.isfinite(rows).all()
    assert (rows[:, 1] > 0).all()


def test_no_images_give_no_rows(store):
    batch = ImageLoader(size=8).transform(np.array([], dtype=object))
    rows, n, _ = readable_rows(batch, store, Counted(), chunk_size=4)
    assert (len(rows), n) == (0, 0)
