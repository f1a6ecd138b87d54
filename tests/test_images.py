import os
import pickle
import shutil
import struct
import zlib

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.pipeline import make_pipeline
from sklearn.utils import _safe_indexing

from cxr_sklearn import ImageAugmenter, ImageBatch, ImageLoader
from cxr_sklearn.digests import hash_files
from cxr_sklearn.exceptions import CXRError, ImageReadError
from cxr_sklearn.images import as_batch

from .conftest import write_image


@pytest.fixture
def paths(tmp_path):
    return [write_image(tmp_path / f"{i}.png", seed=i) for i in range(5)]


@pytest.fixture
def gradient():
    """A smooth picture, so that codecs and filters change it little."""
    return np.add.outer(np.arange(120), np.arange(90)).astype(np.uint8)


def load_one(path, size=(120, 90), **options):
    return ImageLoader(size=size, **options).transform([str(path)])[0]


@pytest.mark.parametrize(
    "wrap",
    [list, np.array, pd.Series, lambda p: pd.DataFrame({"path": p}), lambda p: np.array(p, dtype=object)[:, None]],
)
def test_every_kind_of_column_of_paths_is_taken(paths, wrap):
    batch = ImageLoader(size=8).fit_transform(wrap(paths))
    assert batch.shape == (5, 8, 8, 3)
    assert batch.keys == ImageLoader(size=8).transform(paths).keys


def test_pathlib_paths_are_taken(paths, tmp_path):
    assert len(ImageLoader().transform(list(tmp_path.glob("*.png")))) == 5


@pytest.mark.parametrize("X", [[1, 2], np.zeros((3, 4)), [None, "a.png"], pd.DataFrame({"a": ["x"], "b": ["y"]})])
def test_anything_else_is_refused(X):
    with pytest.raises(ValueError, match="one path per image"):
        ImageLoader().transform(X)


@pytest.mark.parametrize("options", [{"size": 0}, {"size": (3, 4, 5)}, {"size": "big"}, {"resize": "squash"}])
def test_wrong_parameters_are_refused_by_name(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))}="):
        ImageLoader(**options).fit(["a.png"])


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


def test_images_that_are_loaded_already_are_refused(paths):
    with pytest.raises(ValueError, match="loaded already"):
        ImageLoader().transform(ImageLoader().transform(paths))


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
            for options in ({}, {"size": 8}, {"size": (8, 9)}, {"resize": "pad"}, {"resize": "crop"})}  # fmt: skip
    assert len(keys) == 5


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


def test_loader_resizes_arrays_too():
    assert ImageLoader(size=8).transform(np.zeros((2, 20, 10, 3), dtype=np.uint8)).shape == (2, 8, 8, 3)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "CMYK", "1"])
@pytest.mark.parametrize("suffix", ["png", "jpeg", "tiff", "bmp", "webp"])
def test_every_mode_of_every_format_comes_out_grey(tmp_path, gradient, mode, suffix):
    image = Image.fromarray(gradient).convert(mode)
    path = tmp_path / f"image.{suffix}"
    try:
        image.save(path)
    except OSError as error:
        pytest.skip(f"{suffix} cannot hold {mode}: {error}")
    pixels = load_one(path)
    assert (pixels == pixels[..., :1]).all()
    expected = np.asarray(image.convert("RGB").convert("L"), dtype=int)
    assert np.abs(pixels[..., 0] - expected).mean() < 5


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_16_bit_is_scaled_by_its_own_range(tmp_path, gradient, suffix):
    twelve_bit = (gradient.astype(np.uint16) * 10) + 300
    Image.fromarray(twelve_bit).save(tmp_path / f"deep.{suffix}")
    pixels = load_one(tmp_path / f"deep.{suffix}")[..., 0]
    assert (pixels.min(), pixels.max()) == (0, 255)
    assert np.corrcoef(pixels.ravel(), gradient.ravel())[0, 1] > 0.999


def test_transparency_is_laid_over_black(tmp_path, gradient):
    image = Image.fromarray(np.full_like(gradient, 255)).convert("LA")
    image.putalpha(Image.fromarray(gradient))
    image.save(tmp_path / "clear.png")
    np.testing.assert_allclose(load_one(tmp_path / "clear.png")[..., 0], gradient, atol=1)


def test_exif_rotation_is_undone(tmp_path, gradient):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter
    Image.fromarray(gradient).rotate(90, expand=True).save(tmp_path / "turned.jpeg", exif=exif, quality=95)
    assert np.abs(load_one(tmp_path / "turned.jpeg")[..., 0] - gradient.astype(float)).mean() < 2


def test_reduced_size_decoding_looks_like_the_whole(tmp_path, gradient):
    big = Image.fromarray(gradient).resize((1440, 1920), Image.Resampling.BICUBIC)
    big.save(tmp_path / "big.jpeg", quality=95)
    whole = np.asarray(big.resize((90, 120), Image.Resampling.BILINEAR), dtype=float)
    assert np.abs(load_one(tmp_path / "big.jpeg")[..., 0] - whole).mean() < 1


def test_resize_modes(tmp_path):
    Image.fromarray(np.full((100, 50), 200, dtype=np.uint8)).save(tmp_path / "tall.png")
    assert (load_one(tmp_path / "tall.png", size=40) == 200).all()
    assert (load_one(tmp_path / "tall.png", size=40, resize="crop") == 200).all()
    padded = load_one(tmp_path / "tall.png", size=40, resize="pad")
    assert padded[20, 0, 0] == 0
    assert padded[20, 20, 0] == 200


def test_unreadable_files_are_listed_in_one_error(paths, tmp_path):
    (tmp_path / "text.jpeg").write_text("not an image")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)).save(tmp_path / "cut.jpeg")
    with (tmp_path / "cut.jpeg").open("r+b") as file:
        os.truncate(file.fileno(), 700)
    bad = [str(tmp_path / name) for name in ("text.jpeg", "cut.jpeg", "absent.png")]
    with pytest.raises(ImageReadError) as caught:
        np.asarray(ImageLoader().transform([*paths, *bad, str(tmp_path)]))
    error = caught.value
    assert isinstance(error, CXRError | OSError)
    assert list(error.failures) == [*bad, str(tmp_path)]
    assert str(error).startswith("4 of 9 images cannot be read")
    assert "not a JPEG" in error.failures[bad[0]]
    assert "truncated" in error.failures[bad[1]]
    assert "\n" not in str(ImageReadError({"a": "b"}, 1))


@pytest.mark.parametrize("side", [9_000, 60_000])
def test_too_many_pixels_are_refused_before_decoding(tmp_path, side):
    write_png_header(tmp_path / "bomb.png", side)
    with pytest.raises(ImageReadError, match="pixels"):
        load_one(tmp_path / "bomb.png")


def write_png_header(path, side):
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    body = zlib.compress(bytes(1000))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b""))


def test_errors_survive_the_way_back_from_a_worker():
    error = pickle.loads(pickle.dumps(ImageReadError({"a.png": "cut short"}, 3)))
    assert error.failures == {"a.png": "cut short"}
    assert "1 of 3" in str(error)
