import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from sklearn.base import clone
from sklearn.pipeline import make_pipeline

from cxr_sklearn import ImageAugmenter, ImageLoader, make_radiographs
from cxr_sklearn.images.batch import as_batch

NOTHING = {"rotation": 0, "shift": 0, "zoom": 0, "brightness": 0, "contrast": 0}


@pytest.fixture(scope="module")
def images():
    return make_radiographs(10, size=64, random_state=0)[0]


def test_fit_transform_augments_and_transform_does_not(images):
    augmenter = ImageAugmenter(random_state=0)
    views = np.asarray(augmenter.fit_transform(images))
    assert views.shape == (len(images), 64, 64, 3)
    assert all((view != image[..., None]).mean() > 0.2 for view, image in zip(views, images, strict=True))
    np.testing.assert_array_equal(np.asarray(augmenter.transform(images)), np.asarray(as_batch(images)))


def test_a_pipeline_augments_only_while_it_is_fitted(images):
    pipeline = make_pipeline(ImageLoader(size=64), ImageAugmenter(random_state=0))
    assert pipeline.fit_transform(images).keys != pipeline.transform(images).keys
    assert pipeline.transform(images).keys == ImageLoader(size=64).transform(images).keys


def test_the_draw_depends_on_seed_and_content_alone(images):
    augmenter = ImageAugmenter(random_state=3)
    views = augmenter.fit_transform(images)
    shuffled = clone(augmenter).fit_transform(images[::-1])
    assert shuffled.keys == views.keys[::-1]
    np.testing.assert_array_equal(np.asarray(shuffled)[::-1], np.asarray(views))
    assert ImageAugmenter(random_state=4).fit_transform(images).keys[0] != views.keys[0]
    assert len(set(views.keys)) == len(images)


def test_without_a_seed_every_fit_draws_anew(images):
    assert ImageAugmenter().fit_transform(images).keys != ImageAugmenter().fit_transform(images).keys


def test_views_differ_and_view_0_is_the_image(images):
    augmenter = ImageAugmenter(random_state=0).fit(images)
    numbers = np.arange(len(images)) % 3
    views = augmenter.view(images, numbers)
    np.testing.assert_array_equal(views[0], as_batch(images)[0])
    assert views.keys[::3] == as_batch(images).keys[::3]
    assert augmenter.view(images, 1).keys != augmenter.view(images, 2).keys
    np.testing.assert_array_equal(np.asarray(views[4:6]), np.asarray(views)[4:6])
    assert views[4:6].keys == views.keys[4:6]


def test_no_amount_changes_nothing(images):
    views = ImageAugmenter(**NOTHING, random_state=0).fit_transform(images)
    np.testing.assert_array_equal(np.asarray(views), np.asarray(as_batch(images)))


@pytest.mark.parametrize("name", NOTHING)
def test_each_amount_changes_something(images, name):
    views = ImageAugmenter(**{**NOTHING, name: 0.2 if name != "rotation" else 20}, random_state=0).fit_transform(images)
    changed = (np.asarray(views) != np.asarray(as_batch(images))).any(axis=(1, 2, 3))
    assert changed.mean() > 0.5  # a draw can be almost no change


def test_amounts_mean_what_they_say():
    """A bright dot moves by the drawn amount, and never by more than the limit."""
    image = np.zeros((1, 101, 101), dtype=np.uint8)
    image[0, 48:53, 48:53] = 255
    shifts = []
    for seed in range(40):
        view = np.asarray(ImageAugmenter(**{**NOTHING, "shift": 0.2}, random_state=seed).fit_transform(image))[
            0, :, :, 0
        ]
        shifts.append(np.array(np.nonzero(view > 127)).mean(axis=1) - 50)
    assert np.abs(shifts).max() <= 20.2 + 0.5
    assert np.abs(shifts).max() > 15
    assert np.abs(np.mean(shifts)) < 5


def test_rotation_is_about_the_centre():
    image = np.zeros((1, 101, 101), dtype=np.uint8)
    image[0, 48:53, 48:53] = 255
    view = np.asarray(ImageAugmenter(**{**NOTHING, "rotation": 45}, random_state=1).fit_transform(image))[0, :, :, 0]
    np.testing.assert_allclose(np.array(np.nonzero(view > 127)).mean(axis=1), 50, atol=0.5)


def test_flip_mirrors_about_half_of_the_images():
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8), dtype=np.uint8)
    views = np.asarray(ImageAugmenter(**NOTHING, flip=True, random_state=0).fit_transform(images))[..., 0]
    mirrored = (views == images[:, :, ::-1]).all(axis=(1, 2))
    assert 15 < mirrored.sum() < 45
    np.testing.assert_array_equal(views[~mirrored], images[~mirrored])


@pytest.mark.parametrize("options", [{"rotation": -1}, {"zoom": 1}, {"contrast": 1.5}, {"random_state": "x"}])
def test_wrong_parameters_are_refused_by_name(images, options):
    with pytest.raises(ValueError, match=f"{next(iter(options))}="):
        ImageAugmenter(**options).fit(images)


@pytest.mark.parametrize("number", [float, np.float64, np.int64, np.float32])
def test_it_does_not_matter_how_a_number_is_given(number):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 20, 24), dtype=np.uint8)
    views = [ImageAugmenter(rotation=given, random_state=0).fit_transform(pixels) for given in (10, number(10))]
    assert views[0].keys == views[1].keys
    np.testing.assert_array_equal(*views)


def test_the_draw_depends_on_the_image_and_not_on_its_size_or_the_amounts(tmp_path):
    path = tmp_path / "square.png"
    Image.fromarray(np.pad(np.full((40, 40), 255, np.uint8), 40)).save(path)

    def moved(size, shift):
        only_shift = {"rotation": 0, "zoom": 0, "brightness": 0, "contrast": 0, "shift": shift, "random_state": 3}
        view = np.asarray(ImageAugmenter(**only_shift).fit_transform(ImageLoader(size=size).transform([path])))
        return np.subtract(ndimage.center_of_mass(view[0, ..., 0]), (size - 1) / 2) / size

    np.testing.assert_allclose(moved(60, 0.1), moved(120, 0.1), atol=0.005)
    np.testing.assert_allclose(moved(120, 0.05), moved(120, 0.1) / 2, atol=0.005)
    assert np.abs(moved(120, 0.1)).max() > 0.01


def test_the_key_of_a_view_does_not_depend_on_names_of_classes(tmp_path):
    pixels = np.zeros((1, 8, 8), dtype=np.uint8)
    (key,) = ImageAugmenter(random_state=0).fit_transform(pixels).keys
    assert key.hex()[:16] == "aa9e8daf0d10bd0d"
