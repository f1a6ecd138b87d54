import os

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cxr_sklearn import ImageLoader
from cxr_sklearn.exceptions import CXRError, ImageReadError

from .conftest import write_image


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


@pytest.mark.parametrize("options", [{"size": 0}, {"size": (3, 4, 5)}, {"size": "big"}, {"resize": "squash"}])
def test_wrong_parameters_are_refused_by_name(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))}="):
        ImageLoader(**options).fit(["a.png"])


def test_images_that_are_loaded_already_are_refused(paths):
    with pytest.raises(ValueError, match="loaded already"):
        ImageLoader().transform(ImageLoader().transform(paths))


def test_loader_resizes_arrays_too():
    assert ImageLoader(size=8).transform(np.zeros((2, 20, 10, 3), dtype=np.uint8)).shape == (2, 8, 8, 3)


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
