import numpy as np
import pytest
import sklearn
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import VotingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cxr_sklearn import BalancedClassifier, FineTunedClassifier, ImageLoader, ScratchCNNClassifier
from cxr_sklearn._validation import fit_params
from cxr_sklearn.classifiers import base


@pytest.fixture
def rows():
    draw = np.random.default_rng(0)
    y = np.arange(120) % 4 == 0
    return draw.normal(size=(120, 2)) + y[:, None], y


@pytest.fixture
def routing():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


def test_each_estimator_gets_what_it_takes():
    given = {"sample_weight": [1], "groups": ["a"]}
    assert fit_params(LogisticRegression(), **given) == {"sample_weight": [1]}
    assert fit_params(KNeighborsClassifier(), **given) == {}
    assert fit_params(ScratchCNNClassifier(), **given) == given
    assert fit_params(ScratchCNNClassifier(), sample_weight=None, groups=["a"]) == {"groups": ["a"]}


def test_of_a_pipeline_the_last_step_gets_it():
    inner = make_pipeline(StandardScaler(), BalancedClassifier(LogisticRegression()))
    assert fit_params(make_pipeline(StandardScaler(), inner), groups=["a"]) == {
        "pipeline__balancedclassifier__groups": ["a"]
    }


def test_a_meta_estimator_gets_what_its_estimator_takes():
    pipeline = make_pipeline(StandardScaler(), LogisticRegression())
    given = {"sample_weight": [1], "groups": ["a"]}
    assert fit_params(GridSearchCV(pipeline, {}), **given) == {"logisticregression__sample_weight": [1]}
    assert fit_params(GridSearchCV(KNeighborsClassifier(), {}), **given) == {}
    assert fit_params(VotingClassifier([("a", LogisticRegression())]), **given) == {"sample_weight": [1]}
    assert fit_params(CalibratedClassifierCV(pipeline), **given) == {"sample_weight": [1]}


MODELS = [
    LogisticRegression(),
    make_pipeline(StandardScaler(), LogisticRegression()),
    GridSearchCV(LogisticRegression(), {"C": [1.0]}),
    GridSearchCV(make_pipeline(StandardScaler(), LogisticRegression()), {"logisticregression__C": [1.0]}),
    VotingClassifier([("a", LogisticRegression()), ("b", LogisticRegression(C=2))], voting="soft"),
]


@pytest.mark.parametrize("is_routed", [False, True])
@pytest.mark.parametrize("model", MODELS, ids=lambda model: f"{type(model).__name__}")
def test_weights_reach_the_classifier_whatever_wraps_it(rows, model, is_routed):
    X, y = rows
    with sklearn.config_context(enable_metadata_routing=is_routed):
        balanced = BalancedClassifier(model, "weights").fit(X, y)
        plain = BalancedClassifier(model, "none").fit(X, y)
        assert balanced.predict_proba(X)[:, 1].mean() > plain.predict_proba(X)[:, 1].mean() + 0.1


def test_weights_are_not_forced_on_a_classifier_that_declined_them(rows, routing):
    model = make_pipeline(StandardScaler(), LogisticRegression().set_fit_request(sample_weight=False))
    with pytest.raises(ValueError, match="takes no sample_weight"):
        BalancedClassifier(model, "weights").fit(*rows)


class GroupRecorder(ClassifierMixin, BaseEstimator):
    seen = []

    def fit(self, X, y, groups=None):
        self.classes_ = np.unique(y)
        self.seen.append(groups)
        return self

    def predict(self, X):
        return np.repeat(self.classes_[0], len(X))


@pytest.mark.parametrize("wrap", [lambda model: model, lambda model: BalancedClassifier(model, "none")])
def test_cross_validation_routes_patients_to_the_fit(rows, routing, wrap, monkeypatch):
    monkeypatch.setattr(GroupRecorder, "seen", [])
    X, y = rows
    patients = np.arange(120) // 2
    model = make_pipeline(StandardScaler(), wrap(GroupRecorder().set_fit_request(groups=True)))
    cross_val_score(model, X, y, params={"groups": patients}, cv=GroupKFold(3))
    assert [len(groups) for groups in GroupRecorder.seen] == [80, 80, 80]
    assert all((np.unique(groups, return_counts=True)[1] == 2).all() for groups in GroupRecorder.seen)


@pytest.mark.parametrize("network", [FineTunedClassifier, ScratchCNNClassifier])
@pytest.mark.parametrize("is_explicit", [False, True])
def test_patients_reach_the_hold_out_of_a_network(routing, network, is_explicit, monkeypatch):
    class HeldOutError(Exception):
        pass

    def hold_out(examples, groups, fraction, seed):
        raise HeldOutError(groups)

    monkeypatch.setattr(base, "hold_out", hold_out)
    images = np.random.default_rng(0).integers(0, 255, (12, 8, 8), dtype=np.uint8)
    classifier = network(precision="float32")
    model = make_pipeline(ImageLoader(8), classifier.set_fit_request(groups=True) if is_explicit else classifier)
    with pytest.raises(HeldOutError) as caught:
        cross_val_score(model, images, np.arange(12) % 2, params={"groups": np.arange(12) // 2},
                        cv=GroupKFold(3), error_score="raise")  # fmt: skip
    assert len(caught.value.args[0]) == 8
