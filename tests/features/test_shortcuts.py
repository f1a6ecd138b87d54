import numpy as np
import pytest

from cxr_sklearn import ShortcutFeatures, make_radiographs
from cxr_sklearn.exceptions import ImageReadError

from ..conftest import write_image


def test_what_is_measured(tmp_path):
    paths = [write_image(tmp_path / "a.png", size=(30, 60)), write_image(tmp_path / "b.png", seed=1, size=(64, 64))]
    features = ShortcutFeatures(store=tmp_path / "store").set_output(transform="pandas").fit_transform(paths)
    assert features.columns.tolist() == ["width", "height", "aspect_ratio", "mean", "contrast"]
    np.testing.assert_allclose(features.iloc[:, :3], [[60, 30, 2], [64, 64, 1]])
    assert features["mean"].between(110, 145).all()
    assert features["contrast"][1] == pytest.approx(74, abs=5)


def test_they_are_kept(tmp_path, monkeypatch):
    paths = [write_image(tmp_path / "a.png")]
    transformer = ShortcutFeatures(store=tmp_path / "store")
    first = transformer.fit_transform(paths)
    monkeypatch.setattr("cxr_sklearn.features._image_stats._measure", None)
    np.testing.assert_array_equal(transformer.transform(paths), first)


def test_unreadable_files(tmp_path):
    with pytest.raises(ImageReadError, match=r"absent\.png"):
        ShortcutFeatures(store=None).fit_transform([str(tmp_path / "absent.png")])


def test_the_measurements_are_doubles():
    """OpenBLAS 0.3.31 on AVX-512 sometimes warns of invalid values for float32 with exactly five columns."""
    images, _ = make_radiographs(10, size=64, random_state=0)
    assert ShortcutFeatures(store=None).transform(images).dtype == np.float64
