import numpy as np
import pytest
from PIL import Image, ImageOps
from sklearn.base import clone
from sklearn.datasets import load_sample_image
from threadpoolctl import threadpool_limits

from cxr_sklearn import DomainDetector, load_folder, make_radiographs
from cxr_sklearn.exceptions import ImageReadError


@pytest.fixture(scope="module")
def radiographs():
    """Images and patients, the last fifty for tests."""
    images, frame = make_radiographs(160, size=96, random_state=0)
    return images, frame["patient"].to_numpy()


@pytest.fixture(scope="module")
def detector(radiographs):
    images, patients = radiographs
    return DomainDetector(store=None).fit(images[:-50], groups=patients[:-50])


def odd_images():
    for name in ("china.jpg", "flower.jpg"):
        yield name, Image.fromarray(load_sample_image(name))
    yield "blank", Image.new("L", (96, 96), 90)
    yield "black", Image.new("L", (300, 200), 0)
    yield "noise", Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 96), np.uint8))


@pytest.fixture
def odd_paths(tmp_path):
    paths = []
    for name, image in odd_images():
        image.save(tmp_path / f"{name}.png")
        paths.append(str(tmp_path / f"{name}.png"))
    return paths


def test_other_pictures_are_flagged(detector, odd_paths):
    assert detector.predict(odd_paths).tolist() == [-1] * 5
    assert np.isneginf(detector.score_samples(odd_paths)[2:4]).all()


def test_other_radiographs_are_not(detector, radiographs):
    images, _ = radiographs
    assert (detector.predict(images[-50:]) == -1).mean() <= 0.04


def test_negatives_and_radiographs_on_their_side_are(detector, radiographs):
    images, _ = radiographs
    negatives = np.stack([255 - image for image in images[-50:]])
    sideways = np.stack([np.rot90(image) for image in images[-50:]])
    assert (detector.predict(negatives) == -1).mean() > 0.9
    assert (detector.predict(sideways) == -1).mean() > 0.9


def test_few_images_do_not_flag_many(radiographs):
    images, patients = radiographs
    detector = DomainDetector(store=None).fit(images[:60], groups=patients[:60])
    assert (detector.predict(images[60:]) == -1).mean() <= 0.03


def test_patients_are_not_split(radiographs, monkeypatch):
    fitted, held_out = [], []
    plain_fit, plain_scores = DomainDetector._fit, DomainDetector._scores
    monkeypatch.setattr(DomainDetector, "_fit", lambda self, rows, *n: plain_fit(self, fitted.append(rows) or rows, *n))
    monkeypatch.setattr(DomainDetector, "_scores", lambda self, rows: plain_scores(self, held_out.append(rows) or rows))
    copies, patients = np.concatenate(2 * [radiographs[0][:12]]), np.tile(np.arange(12), 2)
    DomainDetector(store=None).fit(copies, groups=patients)
    assert len(held_out) == 5
    for seen, others in zip(fitted, held_out, strict=False):  # the last fit is on all
        assert not (seen[:, None] == others[None]).all(axis=2).any()


def test_it_learns_from_some_of_very_many(radiographs, monkeypatch):
    monkeypatch.setattr("cxr_sklearn.features.domain._MOST_IMAGES", 30)
    detector = DomainDetector(store=None).fit(radiographs[0][:-50])
    assert detector.neighbours_.n_samples_fit_ == 30


def test_it_does_not_depend_on_the_number_of_threads(radiographs):
    images, patients = radiographs
    fitted = []
    for n in (1, 2):
        with threadpool_limits(n, user_api="blas"):
            fitted.append(DomainDetector(store=None).fit(images, groups=patients).pca_.components_)
    np.testing.assert_array_equal(*fitted)


def test_it_is_an_estimator(detector):
    assert clone(detector).get_params() == {"store": None, "crop": 1.0}


def test_what_it_cannot_do(detector, tmp_path, radiographs):
    with pytest.raises(ImageReadError, match="absent"):
        detector.predict([str(tmp_path / "absent.png")])
    with pytest.raises(ValueError, match="9 images are too few to learn"):
        DomainDetector(store=None).fit(radiographs[0][:9])
    with pytest.raises(ValueError, match="11 patients for 10 images"):
        DomainDetector(store=None).fit(radiographs[0][:10], groups=np.arange(11))
    with pytest.raises(ValueError, match="all images but 2 show one patient"):
        DomainDetector(store=None).fit(radiographs[0][:20], groups=[1] * 18 + [2, 3])
    DomainDetector(store=None).fit(radiographs[0][:40], groups=[1] * 34 + [2, 3, 4, 5, 6, 7])
    with pytest.raises(ValueError, match="all images show one patient"):
        DomainDetector(store=None).fit(radiographs[0][:10], groups=np.zeros(10))


@pytest.mark.realdata
def test_on_real_radiographs(real_data, odd_paths, tmp_path):
    frame = load_folder(real_data / "chest_xray_224")
    train, test = (frame[frame["split"] == split] for split in ("train", "test"))
    detector = DomainDetector(tmp_path / "store").fit(train["path"], groups=train["patient"])
    assert detector.predict(odd_paths).tolist() == [-1] * 5
    assert (detector.predict(test["path"]) == -1).mean() <= 0.02
    with Image.open(test["path"].iloc[0]) as image:
        ImageOps.invert(image.convert("L")).save(tmp_path / "negative.png")
    assert detector.predict([str(tmp_path / "negative.png")]) == [-1]


def test_what_the_model_does_not_see_is_not_looked_at(radiographs):
    images, patients = radiographs
    framed = images[-50:].copy()
    framed[:, :6], framed[:, -6:], framed[:, :, :6], framed[:, :, -6:] = 255, 255, 255, 255
    whole, central = (DomainDetector(None, crop).fit(images[:-50], groups=patients[:-50]) for crop in (1.0, 0.8))
    assert (whole.predict(framed) == -1).mean() > 0.9
    assert (central.predict(framed) == -1).mean() <= 0.04
