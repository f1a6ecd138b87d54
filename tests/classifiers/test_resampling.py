from collections import Counter

import numpy as np
import pytest
from sklearn import config_context
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import BaggingClassifier, StackingClassifier, VotingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    FixedThresholdClassifier,
    GridSearchCV,
    GroupKFold,
    RandomizedSearchCV,
    cross_val_score,
    learning_curve,
)
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import LinearSVC

from cxr_sklearn import AugmentedClassifier, BalancedClassifier, ImageAugmenter, ImageLoader, make_radiographs
from cxr_sklearn.images.batch import as_batch


class Recorder(ClassifierMixin, BaseEstimator):
    """Remembers the images that it was fitted on, and predicts from the pixels of an image."""

    def fit(self, X, y, sample_weight=None, groups=None):
        self.keys_, self.y_, self.weight_, self.groups_ = X.keys, y, sample_weight, groups
        self.classes_ = np.unique(y)
        return self

    def predict_proba(self, X):
        score = np.asarray(X).mean(axis=(1, 2, 3)) / 255
        return np.column_stack([1 - score, score])


@pytest.fixture(scope="module")
def data():
    """Twelve images of one class, four of the other."""
    images, frame = make_radiographs(30, size=32, random_state=0)
    y = frame["target"].to_numpy()
    rows = np.r_[np.flatnonzero(y == 1)[:12], np.flatnonzero(y == 0)[:4]]
    return as_batch(images[rows]), np.where(y[rows] == 1, "ill", "well")


class TestAugmented:
    def test_it_fits_on_the_originals_and_n_views_of_each(self, data):
        X, y = data
        augmenter = ImageAugmenter(random_state=0)
        fitted = AugmentedClassifier(Recorder(), augmenter, n_views=3).fit(X, y, groups=np.arange(16) // 2).estimator_
        expected = [key for view in range(4) for key in augmenter.fit(X).view(X, view).keys]
        assert fitted.keys_ == expected
        assert len(set(expected)) == 4 * 16
        assert list(fitted.y_) == list(y) * 4
        assert list(fitted.groups_) == list(np.arange(16) // 2) * 4
        assert fitted.weight_ is None

    def test_views_of_an_image_stay_with_it_in_a_hold_out(self, data):
        X, y = data
        assert list(AugmentedClassifier(Recorder(), n_views=1).fit(X, y).estimator_.groups_) == list(range(16)) * 2

    def test_tta_averages_over_the_image_and_its_views(self, data):
        X, y = data
        augmenter = ImageAugmenter(brightness=0.3, random_state=0)
        plain = AugmentedClassifier(Recorder(), augmenter, n_views=2).fit(X, y)
        tta = clone(plain).set_params(tta=True).fit(X, y)
        views = [plain.estimator_.predict_proba(augmenter.fit(X).view(X, view)) for view in range(3)]
        np.testing.assert_allclose(tta.predict_proba(X), np.mean(views, axis=0))
        np.testing.assert_array_equal(plain.predict_proba(X), views[0])
        assert set(tta.predict(X)) <= {"ill", "well"}

    def test_weights_follow_their_image(self, data):
        X, y = data
        weight = np.arange(16.0)
        fitted = AugmentedClassifier(Recorder(), n_views=1).fit(X, y, weight).estimator_
        assert list(fitted.weight_) == list(weight) * 2

    @pytest.mark.parametrize("n_views", [0, 1.5])
    def test_wrong_parameters(self, data, n_views):
        with pytest.raises(ValueError, match="n_views="):
            AugmentedClassifier(Recorder(), n_views=n_views).fit(*data)

    def test_views_need_images(self):
        with pytest.raises(ValueError, match="expected images"):
            AugmentedClassifier(LogisticRegression()).fit(np.zeros((4, 3)), [0, 1, 0, 1])

    def test_the_seed_makes_it_repeatable(self, data):
        X, y = data
        keys = [AugmentedClassifier(Recorder(), ImageAugmenter(), random_state=0).fit(X, y).estimator_.keys_
                for _ in range(2)]  # fmt: skip
        assert keys[0] == keys[1]
        assert AugmentedClassifier(Recorder(), random_state=1).fit(X, y).estimator_.keys_ != keys[0]

    @pytest.mark.parametrize("tta", [False, True])
    def test_predict_shows_the_classifier_what_fit_did(self, data, tta):
        grey, y = np.asarray(data[0])[..., 0], data[1]
        flat = FunctionTransformer(lambda batch: np.asarray(batch).reshape(len(batch), -1) / 255)
        head = make_pipeline(flat, LogisticRegression(max_iter=10_000))
        model = AugmentedClassifier(head, n_views=1, tta=tta, random_state=0).fit(grey, y)
        assert model.predict(grey).shape == (16,)


class TestBalanced:
    def test_weights(self, data):
        X, y = data
        fitted = BalancedClassifier(Recorder(), "weights").fit(X, y).estimator_
        assert fitted.keys_ == X.keys
        assert fitted.weight_[y == "ill"].sum() == pytest.approx(fitted.weight_[y == "well"].sum())
        doubled = BalancedClassifier(Recorder(), "weights").fit(X, y, np.full(16, 2.0)).estimator_
        np.testing.assert_allclose(doubled.weight_, 2 * fitted.weight_)

    def test_undersample(self, data):
        X, y = data
        fitted = BalancedClassifier(Recorder(), "undersample", random_state=0).fit(X, y).estimator_
        assert Counter(fitted.y_) == {"ill": 4, "well": 4}
        assert set(fitted.keys_) <= set(X.keys)
        assert len(set(fitted.keys_)) == 8
        other = BalancedClassifier(Recorder(), "undersample", random_state=1).fit(X, y).estimator_
        assert fitted.keys_ != other.keys_

    def test_augment(self, data):
        X, y = data
        fitted = BalancedClassifier(Recorder(), "augment", random_state=0).fit(X, y).estimator_
        assert Counter(fitted.y_) == {"ill": 12, "well": 12}
        assert len(set(fitted.keys_)) == 24
        assert set(X.keys) <= set(fitted.keys_)
        by_image = Counter(group for group, label in zip(fitted.groups_, fitted.y_, strict=True) if label == "well")
        assert set(by_image.values()) == {3}
        again = BalancedClassifier(Recorder(), "augment", random_state=0).fit(X, y).estimator_
        assert again.keys_ == fitted.keys_

    def test_none_changes_nothing(self, data):
        X, y = data
        fitted = BalancedClassifier(Recorder(), "none").fit(X, y).estimator_
        assert (fitted.keys_, list(fitted.y_), fitted.weight_) == (X.keys, list(y), None)

    def test_weights_move_a_perceptron(self):
        """MLPClassifier has no class_weight, but it gets the weights."""
        draw = np.random.default_rng(0)
        X, y = draw.normal(size=(200, 1)), np.arange(200) % 10 == 0
        X[y] += 1
        model = MLPClassifier((4,), solver="lbfgs", alpha=1, max_iter=1000, random_state=0)
        scores = [
            BalancedClassifier(model, method).fit(X, y).predict_proba(X)[:, 1].mean() for method in ("none", "weights")
        ]  # fmt: skip
        assert scores[1] > scores[0] + 0.2

    def test_it_goes_into_a_pipeline_of_a_pipeline(self, data):
        X, y = data
        flat = FunctionTransformer(lambda batch: np.asarray(batch)[:, ::4, ::4, 0].reshape(len(batch), -1) / 255)
        inner = make_pipeline(flat, LogisticRegression())
        model = make_pipeline(ImageLoader(size=32), BalancedClassifier(inner, "weights"))
        fitted = model.fit(np.asarray(X), y)
        assert fitted.classes_.tolist() == ["ill", "well"]
        plain = clone(inner).set_params(logisticregression__class_weight="balanced").fit(X, y)
        np.testing.assert_allclose(fitted.predict_proba(np.asarray(X)), plain.predict_proba(X))

    def test_decisions_are_those_of_the_classifier(self, data):
        """A threshold inside decides, not the larger probability."""
        draw = np.random.default_rng(0)
        X, y = draw.normal(size=(60, 2)), np.arange(60) % 3 == 0
        fixed = FixedThresholdClassifier(LogisticRegression(), threshold=0.1)
        fitted = BalancedClassifier(fixed, "undersample").fit(X, y)
        assert fitted.predict(X).mean() > 0.9
        assert (fitted.predict_proba(X)[:, 1] > 0.5).mean() < 0.9
        assert not hasattr(BalancedClassifier(LinearSVC()), "predict_proba")
        assert BalancedClassifier(LinearSVC()).fit(X, y).predict(X).shape == (60,)

    def test_wrong_use(self, data):
        X, y = data
        with pytest.raises(ValueError, match="BalancedClassifier draws views of images, but expected images"):
            BalancedClassifier(LogisticRegression(), "augment").fit(np.zeros((16, 2)), y)
        with pytest.raises(ValueError, match="method='oversample' must be one of"):
            BalancedClassifier(Recorder(), "oversample").fit(X, y)
        with pytest.raises(ValueError, match=r"KNeighborsClassifier\(\) takes no sample_weight"):
            BalancedClassifier(KNeighborsClassifier()).fit(np.zeros((16, 2)), y)


class TestCompositionsOfScikitLearn:
    """What takes weights or patients gets them, however it is wrapped."""

    X = np.random.default_rng(0).normal(size=(60, 3))
    y = (X[:, 0] > 0.8).astype(int)
    patients = np.arange(60) // 2

    @pytest.mark.parametrize("routing", [False, True])
    @pytest.mark.parametrize(
        "head",
        [
            GridSearchCV(LogisticRegression(), {"C": [1, 2]}, cv=2),
            GridSearchCV(make_pipeline(StandardScaler(), LogisticRegression()), {"logisticregression__C": [1]}, cv=2),
            RandomizedSearchCV(LogisticRegression(), {"C": [1]}, n_iter=1, cv=2),
            VotingClassifier([("a", LogisticRegression()), ("b", GaussianNB())], voting="soft"),
            StackingClassifier([("a", LogisticRegression()), ("b", GaussianNB())], cv=2),
            BaggingClassifier(LogisticRegression(), 3, random_state=0),
            CalibratedClassifierCV(LogisticRegression(), cv=2),
        ],
        ids=lambda head: type(head).__name__,
    )
    def test_weights_reach_it(self, head, routing):
        with config_context(enable_metadata_routing=routing):
            weighted = BalancedClassifier(head, "weights").fit(self.X, self.y).predict_proba(self.X)[:, 1]
        plain = head.fit(self.X, self.y).predict_proba(self.X)[:, 1]
        assert weighted.mean() > plain.mean() + 0.03  # the rarer class counts for more

    @pytest.mark.parametrize(
        "judge",
        [
            lambda model, X, y, patients: cross_val_score(
                model, X, y, cv=GroupKFold(3), params={"groups": patients}, error_score="raise"
            ),
            lambda model, X, y, patients: GridSearchCV(
                model, {"method": ["none", "undersample"]}, cv=GroupKFold(3), error_score="raise"
            ).fit(X, y, groups=patients),
            lambda model, X, y, patients: learning_curve(
                model, X, y, cv=GroupKFold(3), params={"groups": patients}, train_sizes=[0.9], error_score="raise"
            ),
        ],
        ids=["cross_val_score", "GridSearchCV", "learning_curve"],
    )
    def test_patients_reach_every_fit_by_metadata_routing(self, judge):
        with config_context(enable_metadata_routing=True):
            judge(BalancedClassifier(NeedsPatients(), "none"), self.X, self.y, self.patients)


class NeedsPatients(LogisticRegression):
    """Refuses to be fitted without the patients, of whom each has two images here."""

    __metadata_request__fit = {"groups": True}

    def fit(self, X, y, sample_weight=None, groups=None):
        assert groups is not None
        assert len(groups) == len(X)
        assert len(np.unique(groups)) < len(X)
        return super().fit(X, y, sample_weight)
