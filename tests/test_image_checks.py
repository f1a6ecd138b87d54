"""What scikit-learn's checks ask of every estimator, asked of ours with images, with metadata routing off and on."""

import pickle

import numpy as np
import pandas as pd
import pytest
import sklearn
from PIL import Image
from sklearn.base import clone, is_classifier, is_outlier_detector
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from cxr_sklearn import (
    AugmentedClassifier,
    BalancedClassifier,
    CXRModel,
    DomainDetector,
    FineTunedClassifier,
    FrozenEmbedder,
    ImageAugmenter,
    ImageLoader,
    ScratchCNNClassifier,
    ShortcutFeatures,
    write_radiographs,
)

SIZE = 32


def embedder():
    return FrozenEmbedder("MobileNet", weights="random", store=None, precision="float32")


def cnn():
    return ScratchCNNClassifier(filters=(4,), epochs=1, batch_size=8, precision="float32", random_state=0)


def tuned():
    return FineTunedClassifier(
        "MobileNet",
        weights="random",
        trainable_from="conv_pw_13",
        epochs=1,
        batch_size=8,
        precision="float32",
        random_state=0,
    )


def loaded(step):
    return make_pipeline(ImageLoader(size=SIZE), step)


#: All take paths, in a Series; the second group of them needs Keras.
QUICK = {
    "loader": lambda: ImageLoader(size=SIZE),
    "augmenter": lambda: loaded(ImageAugmenter(random_state=0)),
    "shortcuts": lambda: ShortcutFeatures(store=None),
    "domain": lambda: DomainDetector(store=None),
    "balanced": lambda: BalancedClassifier(
        make_pipeline(ShortcutFeatures(store=None), LogisticRegression()), "weights"
    ),
    "recipe": lambda: make_pipeline(ShortcutFeatures(store=None), LogisticRegression()),
}
KERAS = {
    "embedder": lambda: loaded(embedder()),
    "embedder and head": lambda: make_pipeline(ImageLoader(size=SIZE), embedder(), LogisticRegression()),
    "cnn": lambda: loaded(cnn()),
    "tuned": lambda: loaded(tuned()),
    "augmented": lambda: loaded(
        AugmentedClassifier(make_pipeline(embedder(), LogisticRegression()), n_views=1, random_state=0)
    ),
    "balanced views": lambda: loaded(
        BalancedClassifier(make_pipeline(embedder(), LogisticRegression()), "augment", random_state=0)
    ),
}
QUICK_ONES = [pytest.param(make, id=name) for name, make in QUICK.items()]
ALL = [*QUICK_ONES, *(pytest.param(make, id=name, marks=pytest.mark.keras) for name, make in KERAS.items())]
every_estimator = pytest.mark.parametrize("make", ALL)


@pytest.fixture(autouse=True, params=[False, True], ids=["routing off", "routing on"])
def routing(request):
    with sklearn.config_context(enable_metadata_routing=request.param):
        yield


@pytest.fixture(scope="module")
def frame(tmp_path_factory):
    frame = write_radiographs(tmp_path_factory.mktemp("images"), 30, size=SIZE, random_state=0)
    return frame.sample(frac=1, random_state=0)[:36]  # so that the index is not a range


@pytest.fixture
def X(frame):
    return frame["path"]


@pytest.fixture
def y(frame):
    return frame["target"]


def answer(estimator, X):
    """What an estimator says of images, as an array."""
    if is_classifier(estimator) or isinstance(estimator, CXRModel):
        return estimator.predict_proba(X)
    if is_outlier_detector(estimator):
        return estimator.score_samples(X)
    return np.asarray(estimator.transform(X))


@every_estimator
def test_a_clone_gives_the_same(make, X, y):
    estimator = make()
    first = answer(estimator.fit(X, y), X)
    again = clone(estimator)
    assert again is not estimator
    np.testing.assert_array_equal(answer(again.fit(X, y), X), first)


@every_estimator
def test_fitting_does_not_change_parameters(make, X, y):
    estimator = make()
    before = repr(sorted(estimator.get_params().items(), key=lambda item: item[0]))
    estimator.fit(X, y)
    assert repr(sorted(estimator.get_params().items(), key=lambda item: item[0])) == before


@every_estimator
def test_a_pickle_gives_the_same(make, X, y):
    estimator = make().fit(X, y)
    again = pickle.loads(pickle.dumps(estimator))
    np.testing.assert_allclose(answer(again, X), answer(estimator, X), rtol=1e-6)


@every_estimator
def test_a_subset_gives_the_same_as_the_whole(make, X, y):
    estimator = make().fit(X, y)
    whole = answer(estimator, X)
    for rows in (slice(0, 1), slice(3, 10), [7, 2, 30]):
        np.testing.assert_allclose(answer(estimator, X.iloc[rows]), whole[rows], rtol=1e-4, atol=1e-5)


@every_estimator
def test_the_order_of_images_does_not_matter(make, X, y):
    estimator = make().fit(X, y)
    whole = answer(estimator, X)
    np.testing.assert_allclose(answer(estimator, X.iloc[::-1])[::-1], whole, rtol=1e-4, atol=1e-5)


@every_estimator
def test_paths_of_any_container_give_the_same(make, X, y):
    estimator = make().fit(X, y)
    whole = answer(estimator, X)
    for same in (X.tolist(), X.to_numpy(), X.to_frame(), X.to_numpy(dtype=object)):
        np.testing.assert_array_equal(answer(estimator, same), whole)


@every_estimator
def test_a_second_fit_forgets_the_first(make, X, y):
    estimator = make().fit(X.iloc[:24], y.iloc[:24])
    np.testing.assert_array_equal(answer(estimator.fit(X, y), X), answer(make().fit(X, y), X))


@every_estimator
def test_without_a_fit_there_is_one_clear_error(make, X, request):
    estimator = make()
    if any(f"-{name}]" in request.node.name for name in ("loader", "augmenter", "shortcuts")):
        answer(estimator, X)  # nothing to learn
    else:
        with pytest.raises(NotFittedError):
            answer(estimator, X)


@every_estimator
def test_inputs_are_not_changed(make, X, y):
    labels = y.to_numpy(copy=True)
    for images in (X.to_numpy(dtype=object), np.stack([np.asarray(Image.open(path)) for path in X])):
        images.flags.writeable = labels.flags.writeable = False
        before = images.copy()
        answer(make().fit(images, labels), images)
        np.testing.assert_array_equal(images, before)


@every_estimator
def test_the_type_of_numbers_is_always_the_same(make, X, y):
    found = {answer(make().fit(X, labels), X).dtype for labels in (y, y.astype("float64"), y.astype("uint8"), y == 1)}
    assert len(found) == 1
    assert found <= {np.dtype(t) for t in ("uint8", "float32", "float64")}


@every_estimator
def test_the_global_seed_is_neither_read_nor_set(make, X, y):
    np.random.seed(1)  # noqa: NPY002
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    first = answer(make().fit(X, y), X)
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002
    np.random.seed(2)  # noqa: NPY002
    np.testing.assert_array_equal(answer(make().fit(X, y), X), first)


@pytest.mark.parametrize("container", ["default", "pandas"])
@every_estimator
def test_tables_keep_the_index_of_the_images(make, container, X, y):
    estimator = make()
    if not hasattr(estimator, "transform") or isinstance(estimator, ImageLoader):
        pytest.skip("gives no table")
    found = estimator.set_output(transform=container).fit_transform(X, y)
    if container == "default" or not isinstance(found, pd.DataFrame):
        assert not isinstance(found, pd.DataFrame)
        return
    assert found.index.equals(X.index)
    assert found.columns.tolist() == estimator.get_feature_names_out().tolist()


@every_estimator
def test_labels_of_any_type(make, X, y):
    estimator = make()
    if not is_classifier(estimator):
        pytest.skip("looks at no labels")
    names = y.map({0: "normal", 1: "pneumonia"})
    found = estimator.fit(X, names)
    assert found.classes_.tolist() == ["normal", "pneumonia"]
    assert set(found.predict(X)) <= {"normal", "pneumonia"}
    np.testing.assert_array_equal(answer(found, X), answer(make().fit(X, y), X))


@every_estimator
def test_no_images_at_all(make, X, y):
    estimator = make()
    if not hasattr(estimator, "predict"):
        assert len(answer(estimator.fit(X, y), X.iloc[:0])) == 0
        return
    with pytest.raises(ValueError, match=r"no images|0 images|0 sample|too few"):
        estimator.fit(X.iloc[:0], y.iloc[:0])
    if is_classifier(estimator):
        with pytest.raises(ValueError, match=r"no images|0 sample"):
            answer(make().fit(X, y), X.iloc[:0])
