"""Compositions that scikit-learn allows: their parts are found, however they are wrapped."""

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.decomposition import PCA
from sklearn.ensemble import StackingClassifier, VotingClassifier
from sklearn.feature_selection import SelectKBest
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import FixedThresholdClassifier, GridSearchCV
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from cxr_sklearn import BalancedClassifier, FrozenEmbedder, ImageLoader, ShortcutFeatures, write_radiographs
from cxr_sklearn.images.changes import ImageOccluder
from cxr_sklearn.models._steps import after_loader, fill_stores, networks_of, set_store, steps_of
from cxr_sklearn.models.calibration import fit_calibrator
from cxr_sklearn.models.model import CXRModel


class OwnFeatures(TransformerMixin, BaseEstimator):
    """A user's own step, with parameters of the same names as ours."""

    def __init__(self, backbone="resnet18", weights=None, store="mine"):
        self.backbone = backbone
        self.weights = weights
        self.store = store

    def fit(self, X, y=None):
        """Do nothing."""
        return self

    def transform(self, X):
        """Return the mean grey level of each row of pixels."""
        return np.asarray(X).mean(axis=(2, 3))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        return tags


@pytest.fixture(scope="module")
def frame(tmp_path_factory):
    return write_radiographs(tmp_path_factory.mktemp("radiographs"), 40, size=48, random_state=0)


def head():
    return LogisticRegression(max_iter=2000)


def images():
    return make_pipeline(ImageLoader(size=8), OwnFeatures(), StandardScaler())


COMPOSITIONS = {
    "flat": make_pipeline(ImageLoader(size=8), OwnFeatures(), head()),
    "nested": make_pipeline(make_pipeline(ImageLoader(size=8), OwnFeatures(), StandardScaler(), PCA(3)), head()),
    "deeper": make_pipeline(make_pipeline(make_pipeline(ImageLoader(size=8)), OwnFeatures()), make_pipeline(head())),
    "selection": make_pipeline(make_pipeline(ImageLoader(size=8), OwnFeatures(), SelectKBest(k=3)), head()),
    "none": Pipeline([("load", ImageLoader(size=8)), ("no", None), ("own", OwnFeatures()), ("classify", head())]),
    "passthrough": Pipeline(
        [("load", ImageLoader(size=8)), ("own", OwnFeatures()), ("no", "passthrough"), ("c", head())]
    ),
    "search": make_pipeline(images(), GridSearchCV(head(), {"C": [0.1, 1]}, cv=2)),
    "search of all": GridSearchCV(make_pipeline(images(), head()), {"logisticregression__C": [0.1, 1]}, cv=2),
    "balanced": make_pipeline(images(), BalancedClassifier(head())),
    "threshold": FixedThresholdClassifier(make_pipeline(images(), head()), threshold=0.4),
    "calibrated": make_pipeline(images(), CalibratedClassifierCV(head(), cv=2, ensemble=False)),
    "calibrated folds": CalibratedClassifierCV(make_pipeline(images(), head()), cv=2),
    "stack": StackingClassifier([("a", make_pipeline(images(), head())), ("b", make_pipeline(images(), head()))], cv=2),
    "stack on top": make_pipeline(images(), StackingClassifier([("a", head()), ("b", head())], cv=2)),
    "vote": VotingClassifier([("a", make_pipeline(images(), head()))], voting="soft"),
    "union": make_pipeline(ImageLoader(size=8), FeatureUnion([("a", OwnFeatures()), ("b", OwnFeatures())]), head()),
}


@pytest.fixture(params=COMPOSITIONS, scope="module")
def fitted(request, frame):
    return clone(COMPOSITIONS[request.param]).fit(frame["path"], frame["target"])


def test_a_step_after_the_loader_reaches_every_image(fitted, frame):
    before = fitted.predict_proba(frame["path"])
    hidden = after_loader(fitted, "occlude", ImageOccluder("border"))
    assert not np.allclose(hidden.predict_proba(frame["path"]), before)
    np.testing.assert_array_equal(fitted.predict_proba(frame["path"]), before)  # it stays as it was


def test_without_a_loader_there_is_nothing_to_step_after(frame):
    model = make_pipeline(ShortcutFeatures(store=None), head()).fit(frame["path"], frame["target"])
    assert after_loader(model, "occlude", ImageOccluder()) is None


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("flat", "ImageLoader OwnFeatures LogisticRegression"),
        ("nested", "ImageLoader OwnFeatures StandardScaler PCA LogisticRegression"),
        ("deeper", "ImageLoader OwnFeatures LogisticRegression"),
        ("none", "ImageLoader OwnFeatures LogisticRegression"),
        ("passthrough", "ImageLoader OwnFeatures LogisticRegression"),
        ("search", "ImageLoader OwnFeatures StandardScaler LogisticRegression"),
        ("search of all", "ImageLoader OwnFeatures StandardScaler LogisticRegression"),
        ("balanced", "ImageLoader OwnFeatures StandardScaler LogisticRegression"),
        ("threshold", "ImageLoader OwnFeatures StandardScaler LogisticRegression"),
        ("calibrated", "ImageLoader OwnFeatures StandardScaler LogisticRegression"),
        ("stack on top", "ImageLoader OwnFeatures StandardScaler StackingClassifier"),
        ("union", "ImageLoader FeatureUnion LogisticRegression"),
    ],
)
def test_steps(frame, name, kinds):
    unfitted = clone(COMPOSITIONS[name])
    assert " ".join(type(step).__name__ for step in steps_of(unfitted)) == kinds
    model = clone(unfitted).fit(frame["path"], frame["target"])
    steps = steps_of(model)
    assert " ".join(type(step).__name__ for step in steps) == kinds
    # Only the fitted parts decide.
    X = frame["path"]
    for step in steps[:-1]:
        X = step.transform(X)
    if name not in ("threshold", "calibrated"):
        np.testing.assert_array_equal(steps[-1].predict_proba(X), model.predict_proba(frame["path"]))


def test_steps_of_a_calibrated_pipeline(frame):
    model = clone(COMPOSITIONS["nested"]).fit(frame["path"], frame["target"])
    scores = frame.assign(score=model.predict_proba(frame["path"])[:, 1])
    joined = CXRModel(model, calibrator=fit_calibrator(scores, "sigmoid"))
    assert [type(step) for step in steps_of(joined)] == [type(step) for step in steps_of(model)]
    assert after_loader(joined, "occlude", ImageOccluder()) is not None


def test_only_our_own_parts_are_told_where_to_keep_rows():
    model = make_pipeline(OwnFeatures(), ShortcutFeatures(store="there"), FrozenEmbedder("VGG16", store="there"))
    set_store(model, None)
    assert [step.store for _, step in model.steps] == ["mine", None, None]
    assert networks_of(model) == [model[-1]]


class Counting(FrozenEmbedder):
    """An embedder that needs no Keras and remembers its input."""

    given = []

    def fit(self, X, y=None):
        """Remember the images."""
        self.given.append(len(X))
        self.n_embedded_, self.n_cached_ = 0, len(X)
        return self

    def transform(self, X):
        """Return something."""
        return np.zeros((len(X), 4))


@pytest.mark.parametrize(
    ("build", "n"),
    [
        (lambda one: make_pipeline(ImageLoader(), one, head()), 1),
        (lambda one: make_pipeline(make_pipeline(ImageLoader(), one, StandardScaler(), PCA(3)), head()), 1),
        (lambda one: make_pipeline(make_pipeline(ImageLoader(), one, SelectKBest(k=2)), head()), 1),
        (lambda one: make_pipeline(ImageLoader(), None, BalancedClassifier(make_pipeline(one, head()))), 1),
        (lambda one: GridSearchCV(make_pipeline(ImageLoader(), one, head()), {"logisticregression__C": [1, 2]}), 1),
        (lambda one: StackingClassifier([("a", make_pipeline(ImageLoader(), one, head())), ("b", "drop")]), 1),
        (lambda one: make_pipeline(ImageLoader(), FeatureUnion([("a", one), ("b", clone(one))]), head()), 2),
        (lambda one: FixedThresholdClassifier(FrozenEstimator(make_pipeline(ImageLoader(), one, head()))), 1),
        (lambda one: make_pipeline(FunctionTransformer(), ImageLoader(), one, head()), 0),
        (lambda one: make_pipeline(ImageLoader(), one.set_params(store=None), head()), 0),
    ],
)
def test_stores_are_filled_with_all_images_and_without_a_fit_of_anything_else(build, n):
    model = build(Counting("VGG16", store="there"))
    Counting.given.clear()
    filled = fill_stores(model, pd.Series(["a", "b", "c"]), 0)
    assert Counting.given == [3] * n
    assert len(filled) == n
    assert all(not hasattr(step, "n_embedded_") for step in networks_of(model))
