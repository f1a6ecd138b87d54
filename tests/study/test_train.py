import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from cxr_sklearn import DomainDetector, load_model, save_model, train, write_radiographs
from cxr_sklearn.exceptions import DataError, RecipeError
from cxr_sklearn.models.prediction import predict
from cxr_sklearn.study.compare import compare
from cxr_sklearn.study.recipes import load_recipe
from cxr_sklearn.study.search import patient_folds

from ..conftest import ROOT


@pytest.fixture(scope="module")
def frame(tmp_path_factory):
    return write_radiographs(tmp_path_factory.mktemp("radiographs"), 40, size=48, random_state=0)


def test_images_in_no_split_are_told_of(frame):
    with pytest.raises(DataError, match="in no splits: `cxr-sklearn subset`"):
        train(frame.assign(split=None), "shortcuts", cv=2)
    some = frame.assign(split=frame["split"].mask(frame.index == frame.index[frame["split"] == "train"][0]))
    with pytest.warns(UserWarning, match="1 image in no split, left out"):
        train(some, "shortcuts", cv=2)


def test_it_gives_what_compare_gives_and_does_not_look_at_test(frame, tmp_path):
    blind = frame.assign(path=frame["path"].where(frame["split"] != "test", "absent" + frame["path"]))
    model = train(blind, "shortcuts", store=tmp_path / "store", cv=3)
    metrics = compare(frame, "shortcuts", out=tmp_path, store=tmp_path / "store", cv=3)
    compared = load_model(tmp_path / "models" / "shortcuts.skops", store=None)
    np.testing.assert_array_equal(model.predict_proba(frame["path"]), compared.predict_proba(frame["path"]))
    threshold = metrics["pipelines"]["shortcuts"]["threshold"]["value"]  # from scores as scores.csv has them
    assert model.threshold == pytest.approx(threshold, abs=1e-8)
    assert isinstance(model.domain, DomainDetector)
    assert save_model(model, tmp_path / "model.skops")["data"]["train"]["patients"] > 9


def test_with_one_fold_it_is_fitted_once_and_a_tenth_of_the_patients_decides(tmp_path):
    frame = write_radiographs(tmp_path / "radiographs", 80, size=48, random_state=0)
    frame = frame[frame["split"] != "val"]
    rows = frame[frame["split"] == "train"]
    ((fitted, held_out),) = patient_folds(rows, 1, 0)
    assert 0.05 < len(held_out) / len(rows) < 0.15
    assert not set(rows["patient"].iloc[fitted]) & set(rows["patient"].iloc[held_out])
    model = train(frame, "shortcuts", store=tmp_path / "store", cv=1)
    expected = load_recipe("shortcuts").build(store=None, random_state=0)
    expected.fit(rows["path"].iloc[fitted], rows["target"].iloc[fitted])
    score = model.predict_proba(rows["path"])[:, 1]
    np.testing.assert_allclose(score, expected.predict_proba(rows["path"])[:, 1])
    auc = roc_auc_score(rows["target"].iloc[held_out], score[held_out])
    assert model.metadata["metrics"]["out_of_fold"]["roc_auc"] == pytest.approx(auc)
    metrics = compare(frame, ["shortcuts"], out=tmp_path / "run", store=tmp_path / "store", cv=1)
    assert metrics["pipelines"]["shortcuts"]["cv"]["roc_auc"] == {"mean": pytest.approx(auc), "std": 0}
    assert metrics["pipelines"]["shortcuts"]["threshold"]["value"] == pytest.approx(model.threshold)


def test_with_one_fold_a_search_chooses_on_the_tenth(tmp_path):
    frame = write_radiographs(tmp_path / "radiographs", 60, size=48, random_state=0)
    model = train(frame, ROOT / "tests" / "row_means.py", store=tmp_path / "store", cv=1)
    assert float(model.metadata["best_params"]["classify__C"]) == model.pipeline["classify"].C


@pytest.mark.parametrize("cv", [1, 3])
@pytest.mark.parametrize("calibrate", [None, "sigmoid", "isotonic"])
def test_a_robust_threshold_travels_with_the_model(frame, tmp_path, calibrate, cv):
    model = train(frame, ROOT / "tests" / "row_means.py", store=None, cv=cv, calibrate=calibrate, threshold="robust")
    save_model(model, tmp_path / "model.joblib")
    loaded = load_model(tmp_path / "model.joblib", trusted=True, store=None)
    assert loaded.threshold == model.threshold
    table = predict(loaded, frame["path"])
    score = model.predict_proba(frame["path"])[:, 1]
    np.testing.assert_array_equal(table["score"], score)
    np.testing.assert_array_equal(table["decision"] == "pneumonia", score >= model.threshold)


def test_a_threshold_that_cannot_be_robust_says_so(frame, tmp_path):
    with pytest.warns(UserWarning, match="shortcuts has no ImageLoader"):
        model = train(frame, "shortcuts", store=tmp_path, cv=3, threshold="robust")
    assert (model.metadata["threshold_rule"], model.metadata["folds"]) == ("youden", 3)
    save_model(model, tmp_path / "model.skops")
    assert load_model(tmp_path / "model.skops", store=None).threshold == model.threshold


def test_what_cannot_be_trained(frame, tmp_path):
    with pytest.raises(ValueError, match="cv=0 must be an integer of at least 1"):
        train(frame, "shortcuts", cv=0)
    with pytest.raises(RecipeError, match="shortcuts cannot resume a training"):
        train(frame, "shortcuts", checkpoint=tmp_path)
    with pytest.raises(ValueError, match="calibrate='no' must be one of"):
        train(frame, "shortcuts", calibrate="no")
    with pytest.raises(DataError, match="there are no normal images in the train split"):
        train(frame[frame["target"] == 1], "shortcuts")
    with pytest.raises(DataError, match="too few for 500 folds"):
        train(frame, "shortcuts", store=tmp_path, cv=500)
