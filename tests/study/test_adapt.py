"""Another threshold and calibration for another place."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit
from sklearn.base import BaseEstimator, ClassifierMixin

from cxr_sklearn import CXRModel, adapt, evaluate, load_model, save_model
from cxr_sklearn.evaluation.thresholds import find_threshold, parse_rule
from cxr_sklearn.exceptions import DataError, InputError, ModelError
from cxr_sklearn.models.calibration import fit_calibrator
from cxr_sklearn.models.development import describe_development, sentences_of_seen
from cxr_sklearn.study.adapt import ENOUGH_FOR_A_SLOPE, fitted_prevalence

from ..conftest import write_image

DATA = {"data": {"train": {"normal": 30, "pneumonia": 70}}, "balance": "none", "calibrated": None}


class KnownAnswers(ClassifierMixin, BaseEstimator):
    """A model whose score of each image is known."""

    def __init__(self, scores):
        self.scores = scores

    def fit(self, X, y):
        raise AssertionError("nothing may be fitted")

    @property
    def classes_(self):
        return np.array([0, 1])

    def predict_proba(self, X):
        p = np.array([self.scores[path] for path in X])
        return np.column_stack([1 - p, p])


def place(folder, n=160, slope=1.0, intercept=0.0, seed=0):
    """Images with scores whose log odds have to be multiplied and moved; two of each patient."""
    rng = np.random.default_rng(seed)
    odds = rng.normal(0, 1.5, n)
    target = rng.binomial(1, expit(intercept + slope * odds))
    paths = [write_image(folder / f"{i}.png", seed=i) for i in range(n)]
    frame = pd.DataFrame({"path": paths, "target": target, "patient": [f"p{i // 2}" for i in range(n)]})
    return frame, KnownAnswers(dict(zip(paths, expit(odds), strict=True)))


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    return place(tmp_path_factory.mktemp("there"), 240, slope=0.5, intercept=-1)


def scores_of(frame, model):
    return model.predict_proba(frame["path"])[:, 1]


@pytest.mark.parametrize("rule", ["youden", "sensitivity=.9", "cost=5:1", "0.3"])
@pytest.mark.parametrize("calibrate", ["none", "intercept", "sigmoid"])
def test_labels_move_scores_and_threshold(there, rule, calibrate):
    frame, answers = there
    adapted = adapt(CXRModel(answers, 0.9), frame, threshold=rule, calibrate=calibrate, store=None)
    found = scores_of(frame, adapted)
    assert adapted.threshold == find_threshold(parse_rule(rule), frame["target"], found)
    if calibrate != "none":
        assert found.sum() == pytest.approx(frame["target"].sum(), abs=1e-4)
    before = scores_of(frame, answers)
    assert (np.argsort(found, kind="stable") == np.argsort(before, kind="stable")).all()
    assert adapted.predict(frame["path"]).tolist() == (found >= adapted.threshold).astype(int).tolist()


def test_the_number_of_events_decides_what_is_fitted(there):
    frame, answers = there
    rarer = frame["target"].value_counts().min()
    assert rarer < ENOUGH_FOR_A_SLOPE
    step = adapt(CXRModel(answers), frame, store=None).metadata["adapted"][0]
    assert step["recalibration"]["kind"] == "intercept"
    assert step["recalibration"]["slope"] == 1


def test_many_events_fit_a_slope(tmp_path):
    frame, answers = place(tmp_path, 500, slope=0.6)
    step = adapt(CXRModel(answers), frame, store=None).metadata["adapted"][0]
    assert step["recalibration"]["kind"] == "sigmoid"
    assert step["recalibration"]["slope"] == pytest.approx(0.6, abs=0.25)
    assert (step["images"], step["patients"]) == (500, 250)


def test_what_was_reached_is_of_held_out_patients(there, monkeypatch):
    from cxr_sklearn.study import adapt as module

    frame, answers = there
    fitted_on = []
    plain = module._fitted

    def spied(target, scores, rule, kind):
        fitted_on.append(len(target))
        return plain(target, scores, rule, kind)

    monkeypatch.setattr(module, "_fitted", spied)
    step = adapt(CXRModel(answers, 0.05), frame, store=None).metadata["adapted"][0]
    assert len(fitted_on) == 11
    assert fitted_on[-1] == len(frame)
    assert sum(len(frame) - n for n in fitted_on[:-1]) == len(frame)
    before = scores_of(frame, answers) >= 0.05
    assert step["before"]["accuracy"]["value"] == np.mean(before == frame["target"])
    assert step["reached"]["accuracy"]["value"] > step["before"]["accuracy"]["value"]


@pytest.mark.parametrize("prevalence", [0.05, 0.2, 0.5, (0.15, 0.25)])
def test_as_many_are_called_pneumonia_as_there_are(there, prevalence):
    frame, answers = there
    model = adapt(CXRModel(answers), frame["path"], prevalence=prevalence, store=None)
    middle = prevalence if isinstance(prevalence, float) else expit(np.mean(logit(prevalence)))
    assert model.predict(frame["path"]).sum() == round(middle * len(frame))
    low, high = model.metadata["adapted"][0]["threshold"]["ci95"]
    assert low < model.threshold < high
    assert model.recalibration is None


def test_an_uncertain_prevalence_widens_the_interval(there):
    frame, answers = there
    sure, unsure = (adapt(CXRModel(answers), frame, prevalence=p) for p in (0.2, (0.1, 0.36)))
    widths = [np.ptp(model.metadata["adapted"][0]["threshold"]["ci95"]) for model in (sure, unsure)]
    assert widths[1] > 1.5 * widths[0]


def test_patients_that_a_table_does_not_know_are_those_of_the_names():
    paths = [f"/person{i // 2}_virus_{i}.png" for i in range(12)]
    model = CXRModel(KnownAnswers(dict(zip(paths, np.linspace(0.1, 0.9, 12), strict=True))))
    table = pd.DataFrame({"path": paths}, index=range(5, 17))
    partly = table.assign(patient=["a", "a", *[None] * 10])
    for images, n_patients in ((paths, 6), (table, 6), (partly, 6), (table.assign(patient=float("nan")), 6),
                               (table.assign(patient="a"), 1)):  # fmt: skip
        assert adapt(model, images, prevalence=0.25).metadata["adapted"][0]["patients"] == n_patients
    with pytest.raises(DataError, match="lacks the column 'path'"):
        adapt(model, table.rename(columns={"path": "file"}), prevalence=0.25)


def test_labels_are_not_looked_at_where_the_prevalence_is_known(there):
    frame, answers = there
    plain = adapt(CXRModel(answers), frame, prevalence=0.2)
    other = adapt(CXRModel(answers), frame.assign(target=1 - frame["target"]), prevalence=0.2)
    bare = adapt(CXRModel(answers), frame[["path", "patient"]], prevalence=0.2)
    assert plain.threshold == other.threshold == bare.threshold


def test_the_mean_score_can_be_made_the_prevalence(there):
    frame, answers = there
    model = adapt(CXRModel(answers), frame, prevalence=0.1, calibrate="intercept")
    assert scores_of(frame, model).mean() == pytest.approx(0.1)
    plain = adapt(CXRModel(answers), frame, prevalence=0.1)
    assert (model.predict(frame["path"]) == plain.predict(frame["path"])).all()


def test_equal_scores_are_on_the_same_side():
    paths = [f"/{i}.png" for i in range(10)]
    answers = KnownAnswers(dict(zip(paths, [0.9] * 4 + [0.1] * 6, strict=True)))
    model = adapt(CXRModel(answers), paths, prevalence=0.2)
    assert model.predict(paths).sum() == 4
    same = KnownAnswers(dict.fromkeys(paths, 0.5))
    with pytest.raises(DataError, match="the same score"):
        adapt(CXRModel(same), paths, prevalence=0.2)


def test_a_prevalence_alone_moves_the_odds():
    answers = KnownAnswers({"a": 0.2, "b": 0.8})
    model = adapt(CXRModel(answers, 0.6, metadata={**DATA, "threshold_rule": "youden"}), prevalence=0.05)
    factor = (0.05 / 0.95) / (70 / 30)
    odds = model.predict_proba(["a", "b"])
    assert odds[:, 1] / odds[:, 0] == pytest.approx([0.25 * factor, 4 * factor])
    # Youden's index looks at each class alone, so nothing is decided otherwise.
    assert model.threshold / (1 - model.threshold) == pytest.approx(1.5 * factor)
    assert model.predict(["a", "b"]).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("rule", "asked", "threshold"),
    [("cost=9:1", None, 0.6), ("0.6", None, 0.6), ("youden", "cost=9:1", 0.1), ("youden", 0.25, 0.25)],
)
def test_rules_that_weigh_probabilities_keep_their_number(rule, asked, threshold):
    model = CXRModel(KnownAnswers({"a": 0.2}), 0.6, metadata={**DATA, "threshold_rule": rule})
    assert adapt(model, prevalence=0.05, threshold=asked).threshold == pytest.approx(threshold)


@pytest.mark.parametrize(("metadata", "share"), [
    (DATA, 0.7),
    ({**DATA, "balance": "weights"}, 0.5),
    ({**DATA, "balance": "weights", "calibrated": "sigmoid"}, 0.7),
    ({**DATA, "calibrated": "sigmoid", "threshold_source": "val",
      "data": {**DATA["data"], "val": {"normal": 9, "pneumonia": 1}}}, 0.1),
    ({**DATA, "calibrated": "reversed", "balance": "undersample"}, 0.5),
])  # fmt: skip
def test_the_prevalence_that_scores_were_fitted_at(metadata, share):
    assert fitted_prevalence(CXRModel(KnownAnswers({}), metadata=metadata)) == pytest.approx(share)


def test_adaptations_add_up(there):
    frame, answers = there
    first = adapt(CXRModel(answers, metadata=DATA), prevalence=0.2)
    second = adapt(first, prevalence=0.5)
    assert [step["prevalence"] for step in second.metadata["adapted"]] == [[0.2], [0.5]]
    direct = adapt(CXRModel(answers, metadata=DATA), prevalence=0.5)
    np.testing.assert_allclose(scores_of(frame, second), scores_of(frame, direct))
    third = adapt(adapt(second, frame, calibrate="sigmoid", store=None), frame, calibrate="sigmoid", store=None)
    assert third.metadata["adapted"][-1]["recalibration"]["slope"] == pytest.approx(1, abs=1e-4)


def test_a_prevalence_counts_from_the_last_calibration(there):
    """A threshold alone leaves scores as they are; labels make them probabilities at the share among their images."""
    frame, answers = there
    model = CXRModel(answers, metadata=DATA)
    threshold_alone = adapt(model, frame, prevalence=0.2)
    assert fitted_prevalence(threshold_alone) == 0.7
    assert fitted_prevalence(adapt(model, frame, prevalence=0.2, calibrate="intercept")) == pytest.approx(0.2)
    labelled = adapt(model, frame, store=None)
    share = float(frame["target"].mean())
    assert fitted_prevalence(labelled) == share
    back = adapt(labelled, prevalence=share)
    np.testing.assert_allclose(scores_of(frame, back), scores_of(frame, labelled))
    assert (back.predict(frame["path"]) == labelled.predict(frame["path"])).all()


def test_a_threshold_that_follows_from_a_prevalence_has_no_rule(there):
    """A number set by hand is kept when scores move; a threshold that calls a share of images pneumonia moves along."""
    frame, answers = there
    model = adapt(CXRModel(answers, 0.6, metadata={**DATA, "threshold_rule": "0.6"}), frame, prevalence=0.2)
    moved = adapt(model, prevalence=0.05)
    assert moved.threshold < model.threshold
    assert (moved.predict(frame["path"]) == model.predict(frame["path"])).all()
    again = adapt(moved, prevalence=0.5)
    assert (again.predict(frame["path"]) == model.predict(frame["path"])).all()
    assert adapt(model, frame, store=None).metadata["threshold_rule"] == "youden"


def test_images_of_the_training_are_warned_of(there):
    frame, answers = there
    made_with = describe_development([], ["p0", "p1", "somebody"])
    model = CXRModel(answers, metadata={**DATA, "development": made_with})
    with pytest.warns(UserWarning, match="made with 0 of these images and 2 of these patients") as caught:
        adapt(model, frame, store=None)
    assert [warning.filename for warning in caught] == [__file__]


def test_the_images_of_every_adaptation_are_remembered(there):
    frame, answers = there
    is_first = frame["patient"].isin(frame["patient"].unique()[:60])
    model = CXRModel(answers)
    for part in (frame[is_first], frame[~is_first]):
        model = adapt(model, part, store=None)
    for part in (frame[is_first], frame[~is_first]):
        (said,) = sentences_of_seen("it", model.metadata, [], part["patient"].unique())
        assert said == "it was adapted on 0 of these images and 60 of these patients"


def test_the_first_model_stays_as_it_was(there):
    frame, answers = there
    model = CXRModel(answers, 0.7, metadata=dict(DATA))
    adapt(model, frame, store=None)
    assert (model.threshold, model.recalibration, model.metadata) == (0.7, None, DATA)


@pytest.mark.parametrize("method", [None, "temperature", "sigmoid", "isotonic"])
def test_a_file_keeps_what_was_adapted(there, tmp_path, method):
    frame, answers = there
    rows = frame.assign(score=scores_of(frame, answers))
    calibrator = method and fit_calibrator(rows, method)
    model = adapt(CXRModel(answers, calibrator=calibrator, metadata=DATA), frame, calibrate="intercept", store=None)
    manifest = save_model(model, tmp_path / "m.joblib")
    assert manifest["format"] == 3
    again = load_model(tmp_path / "m.joblib", trusted=True)
    assert again.recalibration == model.recalibration
    assert again.threshold == model.threshold
    assert (scores_of(frame, again) == scores_of(frame, model)).all()
    assert save_model(CXRModel(answers, metadata=again.metadata), tmp_path / "n.joblib")["format"] == 2
    assert load_model(tmp_path / "n.joblib", trusted=True).recalibration is None


@pytest.mark.parametrize("wrong", ["x", (1,), (0, 0), (0, -1), (np.nan, 1), (0, 1, 2), [True, "1"]])
def test_recalibrations_that_are_none(wrong, tmp_path):
    model = CXRModel(KnownAnswers({"a": 0.5}), recalibration=wrong)
    with pytest.raises(InputError, match="recalibration="):
        model.predict_proba(["a"])
    with pytest.raises((InputError, ModelError), match="recalibration="):
        save_model(model, tmp_path / "m.joblib")


@pytest.mark.parametrize("calibrate", ["none", "intercept", "sigmoid", "auto"])
def test_scores_that_rank_no_better_than_chance(tmp_path, calibrate):
    frame, answers = place(tmp_path, 100, slope=-1)
    alike = KnownAnswers(dict.fromkeys(frame["path"], 0.3))
    for useless in (answers, alike):
        with pytest.raises(DataError, match="no better than chance"):
            adapt(CXRModel(useless), frame, calibrate=calibrate, store=None)


@pytest.mark.parametrize(("key", "value"), [
    ("data", "Our hospital"), ("data", {"train": {"normal": "many", "pneumonia": 3}}), ("data", {"train": 3}),
    ("adapted", "yes"), ("adapted", True), ("adapted", [{"kind": "labels"}]), ("adapted_on", 5),
    ("metrics", "text"), ("metrics", {"test": {"roc_auc": "high"}}), ("description", 5), ("recipe", 5),
    ("threshold_rule", "by committee"), ("threshold_rule", 0.5), ("calibrated", "well"), ("calibrated", {}),
    ("balance", 5), ("best_params", "none"), ("development", "here"), ("created", 2026),
    ("development", {"scores": {"normal": [1]}}),
])  # fmt: skip
def test_metadata_that_cannot_be_read(key, value, tmp_path):
    model = CXRModel(KnownAnswers({}), metadata={**DATA, key: value})
    for use in (lambda: adapt(model, prevalence=0.1), lambda: evaluate(model, pd.DataFrame(), out=tmp_path)):
        with pytest.raises(ModelError, match=f"have '{key}'"):
            use()


def test_metadata_that_are_no_dict(tmp_path):
    with pytest.raises(ModelError, match="must be a dict, not str"):
        evaluate(CXRModel(KnownAnswers({}), metadata="ours"), pd.DataFrame(), out=tmp_path)


def test_facts_of_the_users_own_and_none_are_no_trouble(there):
    frame, answers = there
    keys = ("recipe", "description", "balance", "metrics", "adapted", "adapted_on", "development", "calibrated")
    model = CXRModel(answers, metadata={**DATA, **dict.fromkeys(keys), "hospital": ["Our hospital", 5]})
    for step in (adapt(model, prevalence=0.2), adapt(model, frame, store=None), adapt(model, frame, prevalence=0.2)):
        assert adapt(step, prevalence=0.5).metadata["hospital"] == ["Our hospital", 5]


@pytest.mark.parametrize("prevalence", [0, 1, 1.5, -0.1, "x", True, (0.1,) * 3, (0.2, 0.1), (0.1, "b"), np.nan])
def test_no_prevalence(prevalence):
    with pytest.raises(InputError, match="prevalence="):
        adapt(CXRModel(KnownAnswers({})), ["a"], prevalence=prevalence)


def test_what_cannot_be_asked_for(there):
    frame, answers = there
    model = CXRModel(answers)
    with pytest.raises(InputError, match="nothing is known of the other place"):
        adapt(model)
    with pytest.raises(InputError, match="calibrate='platt'"):
        adapt(model, frame, calibrate="platt")
    with pytest.raises(InputError, match="need a prevalence"):
        adapt(model, frame["path"].tolist())
    with pytest.raises(InputError, match="follows from the prevalence"):
        adapt(model, frame, prevalence=0.1, threshold="youden")
    with pytest.raises(InputError, match="needs labels"):
        adapt(model, frame, prevalence=0.1, calibrate="sigmoid")
    with pytest.raises(InputError, match="robust"):
        adapt(model, frame, threshold="robust")
    with pytest.raises(InputError, match="needs labelled images"):
        adapt(CXRModel(answers, metadata=DATA), prevalence=0.1, threshold="youden")
    with pytest.raises(ModelError, match="does not say on how many images"):
        adapt(model, prevalence=0.1)
    with pytest.raises(DataError, match="less than one image"):
        adapt(model, frame["path"][:5], prevalence=0.1)
    first = frame.loc[frame["target"] == 1, "patient"].iloc[0]
    one = frame[(frame["target"] == 0) | (frame["patient"] == first)]
    with pytest.raises(DataError, match="1 pneumonia patient, too few"):
        adapt(model, one, store=None)
