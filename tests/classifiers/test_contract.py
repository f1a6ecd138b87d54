"""What scikit-learn and its users can expect from every classifier that trains a network."""

import gc
import pickle
import subprocess
import sys
import weakref
from pathlib import Path

import joblib
import numpy as np
import pytest
import skops.io
from sklearn.base import clone, is_classifier
from sklearn.exceptions import DataConversionWarning, NotFittedError
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline

from cxr_sklearn import FineTunedClassifier, ImageAugmenter, ImageLoader, ScratchCNNClassifier, make_radiographs
from cxr_sklearn.exceptions import ImageReadError, TrainingError
from cxr_sklearn.images._decoding import Decoding

from ..conftest import write_image

pytestmark = pytest.mark.keras
SMALL = {"epochs": 2, "batch_size": 16, "random_state": 0, "precision": "float32"}
CLASSIFIERS = [
    ScratchCNNClassifier(filters=(4, 8), dense_units=8, **SMALL),
    FineTunedClassifier("MobileNet", "random", "conv_dw_13", dense_units=8, head_epochs=2, learning_rate=1e-3, **SMALL),
]


@pytest.fixture(scope="module")
def data():
    images, frame = make_radiographs(20, size=32, random_state=0)
    return images, frame["target"].to_numpy(), frame


@pytest.fixture(params=CLASSIFIERS, ids=lambda classifier: type(classifier).__name__)
def classifier(request):
    return clone(request.param)


def test_it_is_a_classifier_that_only_stores_in_its_constructor(classifier):
    assert is_classifier(classifier)
    options = {name: object() for name in classifier.get_params(deep=False)}
    assert vars(type(classifier)(**options)) == options


def test_clone_keeps_every_parameter(classifier):
    changed = classifier.set_params(epochs=7, learning_rate=0.5, augmenter=ImageAugmenter(rotation=3))
    copy = clone(changed)
    for name, value in changed.get_params().items():
        if name != "augmenter":
            assert copy.get_params()[name] == value


def test_images_are_decoded_once(classifier, data, tmp_path, monkeypatch):
    _, y, _ = data
    paths = [write_image(tmp_path / f"{i}.png", seed=i) for i in range(len(y))]
    decode, decoded = Decoding.__call__, []
    monkeypatch.setattr(Decoding, "__call__", lambda self, source: decoded.append(1) or decode(self, source))
    classifier.set_params(augmenter=ImageAugmenter()).fit(ImageLoader(size=32).transform(paths), y)
    assert len(decoded) == len(paths)


def test_epochs_in_a_cloned_pipeline_are_those_asked_for(classifier, data):
    images, y, _ = data
    pipeline = clone(make_pipeline(ImageLoader(size=32), classifier.set_params(epochs=3, early_stopping=False)))
    assert pipeline.fit(images, y)[-1].n_epochs_ == 3
    assert len(pipeline[-1].history_["loss"]) == 3


def test_probabilities(classifier, data):
    images, y, _ = data
    proba = classifier.fit(images, y).predict_proba(images)
    assert proba.shape == (len(y), 2)
    assert proba.dtype == np.float64
    np.testing.assert_allclose(proba.sum(axis=1), 1)
    np.testing.assert_array_equal(classifier.predict(images), classifier.classes_[proba.argmax(axis=1)])
    np.testing.assert_allclose(classifier.predict_proba(images[3:4]), proba[3:4], atol=1e-5)


def test_string_labels_and_three_classes(classifier, data):
    images, _, frame = data
    labels = frame["subtype"].fillna("normal").to_numpy()
    classifier.fit(images, labels, groups=frame["patient"])
    assert classifier.classes_.tolist() == ["bacteria", "normal", "virus"]
    assert classifier.predict_proba(images).shape == (len(labels), 3)
    assert set(classifier.predict(images)) <= {"bacteria", "normal", "virus"}


def save_and_load(classifier, how, folder):
    if how == "pickle":
        return pickle.loads(pickle.dumps(classifier))
    if how == "joblib":
        joblib.dump(classifier, folder / "model.joblib")
        return joblib.load(folder / "model.joblib")
    skops.io.dump(classifier, folder / "model.skops")
    return skops.io.load(folder / "model.skops", trusted=skops.io.get_untrusted_types(file=folder / "model.skops"))


@pytest.mark.parametrize("how", ["pickle", "joblib", "skops"])
def test_round_trips_predict_identically(classifier, data, how, tmp_path):
    images, y, _ = data
    classifier.fit(images, y)
    loaded = save_and_load(classifier, how, tmp_path)
    np.testing.assert_array_equal(loaded.predict_proba(images), classifier.predict_proba(images))
    assert loaded.history_ == classifier.history_


def test_no_optimizer_moments_in_the_pickle(classifier, data):
    images, y, _ = data
    classifier.fit(images, y)
    assert len(pickle.dumps(classifier)) < 1.2 * sum(array.nbytes for array in classifier.weights_) + 10_000


def test_the_same_seed_gives_the_same_predictions(classifier, data):
    images, y, _ = data
    first = clone(classifier).fit(images, y).predict_proba(images)
    np.testing.assert_array_equal(clone(classifier).fit(images, y).predict_proba(images), first)
    other = clone(classifier).set_params(random_state=1).fit(images, y).predict_proba(images)
    assert not np.array_equal(other, first)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_predictions_in_another_process(classifier, data, tmp_path):
    images, y, _ = data
    joblib.dump((classifier, images, y), tmp_path / "job.joblib")
    code = (
        "import joblib, sys, hashlib; c, X, y = joblib.load(sys.argv[1]);"
        "print(hashlib.sha256(c.fit(X, y).predict_proba(X).tobytes()).hexdigest())"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "job.joblib")]
    first, second = (subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2))
    assert first == second
    assert len(first.strip()) == 64


@pytest.mark.slow
def test_a_parallel_search_scores_by_auc(classifier, data):
    images, y, frame = data
    search = GridSearchCV(classifier, {"learning_rate": [1e-3, 1e-2]}, cv=StratifiedGroupKFold(2), scoring="roc_auc",
                          n_jobs=2)  # fmt: skip
    search.fit(images, y, groups=frame["patient"])
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_cross_val_predict(classifier, data):
    images, y, frame = data
    scores = cross_val_predict(classifier, images, y, groups=frame["patient"], cv=StratifiedGroupKFold(2),
                               method="predict_proba")  # fmt: skip
    assert np.isfinite(roc_auc_score(y, scores[:, 1]))


def test_early_stopping_keeps_the_best_weights(classifier, data):
    images, y, _ = data
    classifier.set_params(epochs=12, patience=2, learning_rate=0.02).fit(images, y, X_val=images[::3], y_val=y[::3])
    losses = [*getattr(classifier, "head_history_", {}).get("val_loss", []), *classifier.history_["val_loss"]]
    before = len(losses) - classifier.n_epochs_
    assert classifier.n_epochs_ == min(12, max(int(np.argmin(losses)) - before, -1) + 1 + 2)
    proba = classifier.predict_proba(images[::3])
    assert -np.log(proba[np.arange(len(proba)), y[::3]]).mean() == pytest.approx(min(losses), rel=1e-3)


def test_the_hold_out_splits_no_patient(classifier, data, monkeypatch):
    images, y, frame = data
    seen = {}

    def note(self, examples, validation):
        seen["train"], seen["val"] = examples.images.keys, validation.images.keys
        raise TrainingError("seen enough")

    monkeypatch.setattr(type(classifier), "_train", note)
    with pytest.raises(TrainingError, match="seen enough"):
        classifier.fit(images, y, groups=frame["patient"])
    keys = dict(zip(ImageLoader(size=32).transform(images).keys, frame["patient"], strict=True))
    plain = dict(zip(clone(ImageAugmenter()).transform(images).keys, frame["patient"], strict=True))
    patients = {part: {plain[key] for key in rows} for part, rows in seen.items()}
    assert not patients["train"] & patients["val"]
    assert len(seen["train"]) + len(seen["val"]) == len(keys)
    assert len(seen["val"]) == pytest.approx(0.2 * len(y), abs=4)


def test_class_weights_are_keyed_by_label(classifier, data):
    images, y, _ = data
    labels = np.where(y == 1, "sick", "well")
    rare = np.r_[np.flatnonzero(y == 0)[:15], np.flatnonzero(y == 1)[:4]]
    given = {"sick": 1.0, "well": 50.0}
    before = dict(given)
    towards = clone(classifier).set_params(class_weight=given, early_stopping=False, epochs=6, learning_rate=0.01)
    away = clone(towards).set_params(class_weight={"sick": 50.0, "well": 1.0})
    sick = [model.fit(images[rare], labels[rare]).predict_proba(images)[:, 0].mean() for model in (towards, away)]
    assert sick[0] < sick[1] - 0.05
    assert given == before
    clone(classifier).set_params(class_weight="balanced").fit(images, labels)


def test_augmentation_changes_the_training(classifier, data):
    images, y, _ = data
    plain = clone(classifier).fit(images, y).predict_proba(images)
    augmented = clone(classifier).set_params(augmenter=ImageAugmenter()).fit(images, y).predict_proba(images)
    assert not np.allclose(plain, augmented)


def test_a_fresh_view_for_each_epoch(classifier, data, monkeypatch):
    images, y, _ = data
    seen = []
    original = ImageAugmenter.view
    monkeypatch.setattr(
        ImageAugmenter, "view", lambda self, X, n: seen.append(np.unique(n).tolist()) or original(self, X, n)
    )
    classifier.set_params(augmenter=ImageAugmenter(), epochs=3, early_stopping=False).fit(images, y)
    if isinstance(classifier, ScratchCNNClassifier):
        assert seen == [[1], [2], [3]]
    else:
        assert seen[-1] == [0, 1, 2, 3, 4]  # each image one of its four views, or itself


def test_what_was_trained_on_is_let_go(classifier, data):
    """TensorFlow keeps every dataset for as long as the process lives."""
    images, y, _ = data
    batch = ImageLoader(size=32).transform(images.copy())
    pixels = weakref.ref(batch._sources.base)
    classifier.fit(batch, y)
    del batch
    gc.collect()
    assert pixels() is None


def test_bfloat16(classifier, data):
    images, y, _ = data
    classifier.set_params(precision="bfloat16", epochs=4).fit(images, y)
    assert classifier.precision_ == "bfloat16"
    proba = classifier.predict_proba(images)
    assert np.isfinite(proba).all()
    full = clone(classifier).set_params(precision="float32").fit(images, y).predict_proba(images)
    assert not np.array_equal(proba, full)
    assert all(weight.dtype == np.float32 for weight in classifier.weights_)


def test_parameters_set_after_fit_do_not_change_what_was_fitted(classifier, data):
    images, y, _ = data
    expected = classifier.fit(images, y).predict_proba(images)
    other = {"filters": (2,)} if isinstance(classifier, ScratchCNNClassifier) else {"trainable_from": "conv_pw_13"}
    classifier.set_params(**other, dense_units=3)
    np.testing.assert_array_equal(classifier.predict_proba(images), expected)
    np.testing.assert_allclose(pickle.loads(pickle.dumps(classifier)).predict_proba(images), expected, atol=1e-6)


def test_a_fit_that_fails_leaves_no_classifier_behind(classifier, data):
    images, y, _ = data
    classifier.fit(images, y)
    with pytest.raises(ValueError, match="X_val"):
        classifier.fit(images, np.where(y == 1, "ill", "well"), X_val=images)
    with pytest.raises(NotFittedError):
        classifier.predict(images)


class TestBadInput:
    def test_vectors(self, classifier):
        with pytest.raises(ValueError, match=r"expected images.*ImageLoader"):
            classifier.fit(np.zeros((8, 10)), [0, 1] * 4)

    def test_one_class(self, classifier, data):
        with pytest.raises(ValueError, match="y holds one class, 0"):
            classifier.fit(data[0][:4], [0, 0, 0, 0])

    def test_y_of_another_length(self, classifier, data):
        with pytest.raises(ValueError, match="inconsistent numbers of samples"):
            classifier.fit(data[0][:4], [0, 1])

    def test_labels_that_only_validation_has(self, classifier, data):
        images, y, _ = data
        with pytest.raises(ValueError, match=r"labels that y does not: \[2\]"):
            classifier.fit(images, y, X_val=images[:2], y_val=[0, 2])

    def test_no_images(self, classifier, data):
        images, y, _ = data
        with pytest.raises(ValueError, match="no images to fit on"):
            classifier.fit(images[:0], y[:0])
        classifier.fit(images, y)
        with pytest.raises(ValueError, match="no images to predict"):
            classifier.predict(images[:0])
        with pytest.raises(ValueError, match="X_val holds no images"):
            classifier.fit(images, y, X_val=images[:0], y_val=y[:0])

    def test_a_column_of_labels_is_read_as_labels(self, classifier, data):
        images, y, _ = data
        with pytest.warns(DataConversionWarning):
            classifier.fit(images, y, X_val=images[:8], y_val=y[:8, None])
        column = classifier.history_["val_loss"]
        assert column == pytest.approx(classifier.fit(images, y, X_val=images[:8], y_val=y[:8]).history_["val_loss"])

    def test_half_a_validation_set(self, classifier, data):
        images, y, _ = data
        with pytest.raises(ValueError, match="X_val and y_val go together"):
            classifier.fit(images, y, X_val=images[:2])
        with pytest.raises(ValueError, match="X_val holds images of shape"):
            classifier.fit(images, y, X_val=np.zeros((2, 40, 40), dtype=np.uint8), y_val=[0, 1])

    @pytest.mark.parametrize("when", ["fit", "predict"])
    def test_every_unreadable_file_is_listed(self, classifier, data, when, tmp_path):
        paths = [write_image(tmp_path / f"{i}.png", seed=i, size=(32, 32)) for i in range(40)]
        loader, y = ImageLoader(size=32), np.arange(40) % 2
        if when == "predict":
            classifier.fit(loader.transform(paths), y)
        (tmp_path / "3.png").write_text("no image")
        (tmp_path / "37.png").write_bytes(b"")
        with pytest.raises(ImageReadError) as caught:
            getattr(classifier, when)(loader.transform(paths), *([y] if when == "fit" else []))
        assert {Path(path).name for path in caught.value.failures} == {"3.png", "37.png"}

    def test_images_of_another_size(self, classifier, data):
        classifier.fit(data[0], data[1])
        with pytest.raises(ValueError, match=r"but fit saw \(32, 32, 3\)"):
            classifier.predict(np.zeros((1, 40, 40), dtype=np.uint8))

    def test_too_few_to_hold_out(self, classifier, data):
        with pytest.raises(ValueError, match="early_stopping=False"):
            classifier.fit(data[0][:6], [0, 1, 0, 1, 0, 1], groups=list("ababab"))

    def test_a_loss_that_is_not_a_number(self, classifier, data):
        with pytest.raises(TrainingError, match=r"epoch \d+ is not a number; try a lower learning rate"):
            classifier.set_params(epochs=5, early_stopping=False).fit(
                data[0], data[1], sample_weight=np.full(len(data[1]), 1e38)
            )

    @pytest.mark.parametrize(
        "options",
        [
            {"epochs": 0},
            {"learning_rate": 0},
            {"dropout": 1},
            {"validation_fraction": 0.6},
            {"patience": True},
            {"dense_units": -1},
            {"class_weight": {0: -1.0, 1: 1.0}},
        ],
    )
    def test_wrong_parameters(self, classifier, data, options):
        with pytest.raises(ValueError, match=next(iter(options))):
            classifier.set_params(**options).fit(data[0], data[1])

    def test_negative_weights(self, classifier, data):
        with pytest.raises(ValueError, match=r"[Nn]egative"):
            classifier.fit(data[0], data[1], -np.ones(len(data[1])))

    def test_groups(self, classifier, data):
        images, y, frame = data
        with pytest.raises(ValueError, match="groups lacks the patient of 3 images"):
            classifier.fit(images, y, groups=frame["patient"].where(np.arange(len(y)) > 2, None))
        with pytest.raises(ValueError, match="groups holds 2 patients"):
            classifier.fit(images, y, groups=["a", "b"])
        classifier.fit(images, y, groups=frame[["patient"]])

    def test_a_label_that_is_missing(self, classifier, data):
        with pytest.raises(ValueError, match="y lacks the label of 1 images"):
            classifier.fit(data[0][:4], np.array(["a", "b", None, "a"], dtype=object))

    def test_numbers_of_numpy_are_numbers(self, classifier, data):
        classifier.set_params(epochs=np.int64(1), learning_rate=np.float32(1e-3), validation_fraction=0.02)
        assert classifier.set_params(random_state=np.random.RandomState(0)).fit(data[0], data[1]).n_epochs_ == 1
