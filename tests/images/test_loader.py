import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cxr_sklearn import ImageLoader
from cxr_sklearn.exceptions import CXRError, ImageReadError

from ..conftest import write_image


@pytest.fixture
def paths(tmp_path):
    return [write_image(tmp_path / f"{i}.png", seed=i) for i in range(5)]


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


def test_the_first_cell_that_is_no_path_is_named():
    with pytest.raises(ValueError, match="with nan at position 1"):
        ImageLoader().transform(pd.Series(["a.png", float("nan")], dtype=object))


WRONG = [*({"size": size} for size in (0, (3, 4, 5), "big")), {"resize": "squash"},
         *({"crop": crop} for crop in (0, 1.1, True, "0.8", np.nan))]  # fmt: skip


@pytest.mark.parametrize("options", WRONG)
def test_wrong_parameters_are_refused_by_name(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))}="):
        ImageLoader(**options).fit(["a.png"])


def test_images_that_are_loaded_already_are_refused(paths):
    with pytest.raises(ValueError, match="loaded already"):
        ImageLoader().transform(ImageLoader().transform(paths))


def test_loader_resizes_arrays_too():
    assert ImageLoader(size=8).transform(np.zeros((2, 20, 10, 3), dtype=np.uint8)).shape == (2, 8, 8, 3)


@pytest.mark.parametrize("resize", ["stretch", "pad", "crop"])
@pytest.mark.parametrize("size", [(100, 200), (101, 203)])
def test_the_central_part_of_each_side_is_kept(tmp_path, resize, size):
    framed = np.zeros(size, dtype=np.uint8)
    framed[10:-10, 20:-20] = np.random.default_rng(0).integers(100, 200, (size[0] - 20, size[1] - 40))
    Image.fromarray(framed).save(tmp_path / "framed.png")
    Image.fromarray(framed[10:-10, 20:-20]).save(tmp_path / "inner.png")
    whole, inner = (str(tmp_path / name) for name in ("framed.png", "inner.png"))
    kept = ImageLoader((24, 30), resize, crop=0.8).transform([whole])
    np.testing.assert_array_equal(kept[0], ImageLoader((24, 30), resize).transform([inner])[0])
    np.testing.assert_array_equal(ImageLoader((24, 30), resize, crop=0.8).transform(framed[None])[0], kept[0])


def test_a_part_of_a_large_jpeg_is_decoded_as_sharp_as_the_whole(tmp_path):
    stripes = np.zeros((1600, 1600), dtype=np.uint8)
    stripes[:, ::4], stripes[:, 1::4] = 255, 255
    Image.fromarray(stripes).save(tmp_path / "large.jpeg", quality=95)
    part = ImageLoader(400, crop=0.25).transform([str(tmp_path / "large.jpeg")])[0]
    # Decoded at a quarter of the size, as for 400 pixels of the whole image, the stripes would be one grey.
    assert part.std() > 100


@pytest.mark.parametrize("crop", [1e-9, 1e-3])
def test_of_a_small_image_something_is_left(crop):
    assert ImageLoader(8, crop=crop).transform(np.full((1, 3, 4), 7, np.uint8))[0].tolist() == [[[7] * 3] * 8] * 8


def test_contents_of_files_are_taken_as_well_as_paths(paths):
    contents = [Path(path).read_bytes() for path in paths]
    by_path, mixed = (ImageLoader(8).transform(X) for X in (paths, [contents[0], *paths[1:]]))
    assert ImageLoader(8).transform(pd.Series(contents)).keys == mixed.keys == by_path.keys
    np.testing.assert_array_equal(np.asarray(mixed), np.asarray(by_path))
    assert mixed.source_header(0) == by_path.source_header(0)
    with pytest.raises(ImageReadError, match="image 1: not a JPEG"):
        np.asarray(ImageLoader(8).transform([contents[0], b"not an image\0"]))


def test_a_loader_of_before_there_was_a_crop_keeps_all():
    earlier = ImageLoader.__new__(ImageLoader)
    earlier.__setstate__({"size": 8, "resize": "pad"})
    assert earlier.get_params() == {"size": 8, "resize": "pad", "crop": 1.0}


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
