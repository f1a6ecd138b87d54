import hashlib
import pickle
import shutil
from dataclasses import dataclass

import numpy as np
import pytest
from sklearn.pipeline import make_pipeline
from sklearn.utils import _safe_indexing

from cxr_sklearn import ImageAugmenter, ImageBatch, ImageLoader
from cxr_sklearn.exceptions import ImageReadError
from cxr_sklearn.images._digests import hash_files
from cxr_sklearn.images.batch import as_batch

from ..conftest import write_image


@pytest.fixture
def paths(tmp_path):
    return [write_image(tmp_path / f"{i}.png", seed=i) for i in range(5)]


def test_nothing_is_opened_before_pixels_are_asked_for(tmp_path):
    batch = ImageLoader().transform([str(tmp_path / "absent.png")])
    assert len(batch[:1]) == 1
    with pytest.raises(ImageReadError, match=r"absent\.png: No such file"):
        batch[0]


def test_indexing_is_that_of_a_sequence_and_of_an_array(paths):
    batch = ImageLoader(size=8).transform(paths)
    pixels = np.asarray(batch)
    assert pixels.shape == (5, 8, 8, 3)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(batch[-1], pixels[4])
    for rows in (slice(1, 3), [0, 4], np.array([True, False, True, False, False]), np.array([], dtype=int), []):
        part = batch[rows]
        assert isinstance(part, ImageBatch)
        np.testing.assert_array_equal(np.asarray(part), pixels[rows if len(part) else slice(0)])
    np.testing.assert_array_equal(np.asarray(_safe_indexing(batch, [2, 3])), pixels[2:4])
    with pytest.raises(IndexError):
        batch[5]


@pytest.mark.parametrize("index", [(1, 2), True, np.array(3), [[0, 1], [2, 3]]])
def test_an_index_of_another_shape_is_refused(paths, index):
    with pytest.raises(IndexError, match="one axis"):
        ImageLoader().transform(paths)[index]


def test_a_pinned_file_that_changes_is_unreadable(paths, tmp_path):
    batch = ImageLoader(size=8).transform(paths).pinned(hash_files)
    keys = batch.keys
    write_image(tmp_path / "2.png", seed=77)
    assert batch.keys == keys
    batch[1]
    with pytest.raises(ImageReadError, match="changed while it was being read"):
        batch[1:][1]


def test_a_null_byte_in_a_path():
    with pytest.raises(ImageReadError, match="null"):
        ImageLoader().transform(["a\0b.png"]).keys  # noqa: B018


def test_whole_pipelines_can_be_told_to_give_tables(paths):
    pipeline = make_pipeline(ImageLoader(), ImageAugmenter()).set_output(transform="pandas")
    assert isinstance(pipeline.fit_transform(paths), ImageBatch)
    assert pipeline.get_feature_names_out(["path"]).tolist() == ["path"]


def test_a_batch_cannot_be_changed(paths):
    images = np.zeros((2, 4, 4), dtype=np.uint8)
    with pytest.raises(ValueError, match="read-only"):
        as_batch(images)._sources[0] = 1


def test_keys_follow_content_not_names(paths, tmp_path):
    twin = shutil.copy(paths[0], tmp_path / "twin.png")
    keys = ImageLoader().transform([*paths, twin]).keys
    assert keys[0] == keys[5]
    assert len(set(keys)) == 5
    write_image(tmp_path / "0.png", seed=99)
    assert ImageLoader().transform(paths[:1]).keys[0] != keys[0]


def test_keys_cover_every_operation(paths):
    keys = {ImageLoader(**options).transform(paths[:1]).keys[0]
            for options in ({}, {"size": 8}, {"size": (8, 9)}, {"resize": "pad"}, {"resize": "crop"},
                            {"crop": 0.8}, {"crop": 0.9})}  # fmt: skip
    assert len(keys) == 7


def test_keys_are_those_of_earlier_versions_of_this_decoder(tmp_path):
    """Otherwise all existing feature stores would become useless without a reason."""
    (tmp_path / "a.png").write_bytes(b"any bytes")
    batch = ImageLoader((8, 9), "pad").transform([str(tmp_path / "a.png")])
    digest = hashlib.sha256(b"any bytes").digest()
    assert batch.keys == [hashlib.sha256(digest + b"2 Decoding(height=8, width=9, resize='pad')").digest()]


@dataclass(frozen=True)
class Darker:
    by: int

    def __call__(self, grey):
        return grey // self.by


def test_a_change_is_made_before_a_part_is_kept(paths):
    batch = ImageLoader(size=8, crop=0.5).transform(paths)
    changed = batch.changed(Darker(2))
    assert not set(changed.keys) & set(batch.keys)
    assert set(changed[1:].keys) < set(changed.keys)
    assert changed.keys != batch.changed(Darker(3)).keys
    assert np.asarray(changed).max() < 128 < np.asarray(batch).max()
    with pytest.raises(ValueError, match="ImageLoader"):
        as_batch(np.zeros((2, 4, 4), dtype=np.uint8)).changed(Darker(2))


def test_images_in_memory_are_not_read_again(paths, tmp_path):
    augmenter = ImageAugmenter(random_state=0).fit(np.zeros((1, 4, 4), np.uint8))
    batch = ImageLoader(size=8).transform(paths).pinned(hash_files)
    told = []
    kept = batch.in_memory(told.append)
    views, pixels = augmenter.view(batch, 1), np.asarray(augmenter.view(batch, 1))
    for i in range(5):
        (tmp_path / f"{i}.png").unlink()
    assert sum(told) == 5
    assert augmenter.view(kept, 1).keys == views.keys
    np.testing.assert_array_equal(np.asarray(augmenter.view(kept, 1)), pixels)
    np.testing.assert_array_equal(np.asarray(augmenter.view(kept[[3, 1]], 1)), pixels[[3, 1]])
    np.testing.assert_array_equal(kept.in_memory()[2], kept[2])
    with pytest.raises(ImageReadError, match="5 of 5"):
        batch.in_memory()


def test_arrays_are_keyed_by_their_pixels():
    images = np.arange(2 * 4 * 6, dtype=np.uint8).reshape(2, 4, 6)
    keys = as_batch(images).keys
    assert as_batch(images[::-1]).keys == keys[::-1]
    assert not set(as_batch(images.reshape(2, 6, 4)).keys) & set(keys)
    np.testing.assert_array_equal(as_batch(images[..., None])[1], np.repeat(images[1][..., None], 3, axis=2))


@pytest.mark.parametrize("X", [np.zeros((2, 4, 4)), np.zeros((2, 8), np.uint8), np.zeros((2, 4, 4, 2), np.uint8)])
def test_arrays_that_are_not_8_bit_images_are_refused(X):
    with pytest.raises(ValueError, match="expected"):
        as_batch(X)


def test_errors_survive_the_way_back_from_a_worker():
    error = pickle.loads(pickle.dumps(ImageReadError({"a.png": "cut short"}, 3)))
    assert error.failures == {"a.png": "cut short"}
    assert "1 of 3" in str(error)
