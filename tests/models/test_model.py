"""CXRModel: one threshold wherever it decides, and a classifier for scikit-learn."""

import copy
import json
import pickle
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone, is_classifier
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils.validation import check_is_fitted
from typer.testing import CliRunner

import cxr_sklearn
from cxr_sklearn import (
    BalancedClassifier,
    CXRModel,
    DomainDetector,
    ShortcutFeatures,
    load_model,
    load_recipe,
    predict,
    save_model,
    stress_test,
    write_radiographs,
)
from cxr_sklearn.cli import app
from cxr_sklearn.exceptions import InputError, ModelError
from cxr_sklearn.models.calibration import METHODS, fit_calibrator


@pytest.fixture(scope="module")
def frame(tmp_path_factory):
    return write_radiographs(tmp_path_factory.mktemp("radiographs"), 200, size=64, random_state=0).iloc[:300]


@pytest.fixture(scope="module")
def pipeline(frame):
    return load_recipe("shortcuts").build(store=None).fit(frame["path"], frame["target"])


def calibrator_of(pipeline, frame, method):
    return fit_calibrator(frame.assign(score=pipeline.predict_proba(frame["path"])[:, 1]), method)


class TestDecisions:
    @pytest.mark.parametrize("method", [None, *METHODS])
    def test_predict_decides_at_the_threshold(self, pipeline, frame, method):
        calibrator = None if method is None else calibrator_of(pipeline, frame, method)
        scores = CXRModel(pipeline, calibrator=calibrator).predict_proba(frame["path"])[:, 1]
        for threshold in (0, 0.5, float(np.median(scores)), float(scores.max()), np.nextafter(1.0, 2.0)):
            model = CXRModel(pipeline, threshold, calibrator=calibrator)
            np.testing.assert_array_equal(model.predict(frame["path"]), (scores >= threshold).astype(int))

    def test_float32_scores_are_not_rounded_to_the_threshold(self, frame):
        """0.1 is less than float32(0.1), and more than float32(0.1) less one step."""

        class Always(LogisticRegression):
            def predict_proba(self, X):
                return np.repeat(np.float32([[0.9, 0.1]]), len(X), axis=0)

        pipeline = make_pipeline(ShortcutFeatures(None), Always()).fit(frame["path"], frame["target"])
        just_above = float(np.float32(0.1)) + 1e-12
        assert CXRModel(pipeline, 0.1).predict(frame["path"][:3]).all()
        assert not CXRModel(pipeline, just_above).predict(frame["path"][:3]).any()

    @pytest.mark.parametrize("threshold", [None, "youden", True, -0.1, float("nan"), float("inf")])
    def test_thresholds_that_no_score_compares_with(self, pipeline, frame, tmp_path, threshold):
        model = CXRModel(pipeline, threshold)
        for call in (lambda: model.predict(frame["path"]), lambda: save_model(model, tmp_path / "m.skops"),
                     lambda: predict(model, frame["path"], store=None)):  # fmt: skip
            with pytest.raises(InputError, match=r"threshold=.* must be a finite number of at least 0"):
                call()
        assert not list(tmp_path.iterdir())

    @pytest.mark.slow
    @pytest.mark.parametrize("method", [None, "isotonic"])
    def test_python_shell_and_page_decide_alike(self, pipeline, frame, tmp_path, method):
        """At thresholds that are scores themselves, where a last bit would show, and between them."""
        pytest.importorskip("fastapi")
        from ..serve.conftest import client_of

        calibrator = None if method is None else calibrator_of(pipeline, frame, method)
        model = CXRModel(pipeline, calibrator=calibrator, domain=DomainDetector(None).fit(frame["path"]))
        scores = np.unique(model.predict_proba(frame["path"])[:, 1])
        paths, contents = frame["path"].tolist(), [Path(path).read_bytes() for path in frame["path"]]
        for threshold in (scores[len(scores) // 3], (scores[1] + scores[2]) / 2):
            model.threshold = float(threshold)
            save_model(model, tmp_path / "model.skops")
            again = load_model(tmp_path / "model.skops", store=None)
            client = client_of(again)
            names = dict(enumerate(again.class_names))
            decided = pd.DataFrame(
                {
                    "python": [names[label] for label in again.predict(frame["path"])],
                    "table": predict(again, paths, store=None)["decision"],
                    "shell": shell(tmp_path / "model.skops", paths),
                    "page": [page(client, content) for content in contents],
                }
            )
            assert decided.eq(decided["python"], axis="index").all(axis=None), decided


def shell(model, paths):
    """Decisions of the command, which reads the paths from its input."""
    done = CliRunner().invoke(app, ["predict", str(model), "-", "--json", "--store", str(model.parent / "store")],
                              input="\n".join(paths))  # fmt: skip
    assert done.exit_code == 0, done.output
    return [row["decision"] for row in json.loads(done.stdout)]


def page(client, content):
    """Decision on an image that is the whole body, as ``curl --data-binary`` sends it."""
    answer = client.post("/predict", content=content, headers={"content-type": "application/x-www-form-urlencoded"})
    assert answer.status_code == 200, answer.text
    (result,) = answer.json()["results"]
    return result["decision"]


class TestClassifier:
    def test_scikit_learn_sees_a_fitted_classifier(self, pipeline, frame):
        model = CXRModel(pipeline, 0.4)
        check_is_fitted(model)
        assert is_classifier(model)
        assert model.classes_.tolist() == [0, 1]
        assert model.score(frame["path"], frame["target"]) == np.mean(model.predict(frame["path"]) == frame["target"])
        again = pickle.loads(pickle.dumps(model))
        np.testing.assert_array_equal(again.predict(frame["path"]), model.predict(frame["path"]))
        assert type(model).__module__ == "cxr_sklearn"

    def test_it_cannot_be_fitted_again(self, pipeline, frame):
        model = CXRModel(pipeline, 0.4)
        with pytest.raises(ModelError, match=r"cannot be fitted again.*clone\(model.pipeline\)"):
            model.fit(frame["path"], frame["target"])
        with pytest.raises(ModelError, match="cannot be fitted again"):
            cross_val_score(model, frame["path"], frame["target"], error_score="raise")
        with pytest.raises(NotFittedError):
            check_is_fitted(clone(model))
        assert FrozenEstimator(model).predict(frame["path"][:2]).shape == (2,)

    def test_where_a_threshold_is_wanted_the_model_has_one(self, pipeline, frame):
        with pytest.raises(InputError, match="ImageLoader"):  # it measures files, so they cannot be changed
            stress_test(CXRModel(pipeline, 0.4), frame, ["noisy"])

    def test_other_things_are_not_models(self, frame, tmp_path):
        for odd in (LogisticRegression(), "model.skops", None):
            with pytest.raises(InputError, match=r"model=.* must be a CXRModel or a Pipeline"):
                save_model(odd, tmp_path / "model.skops")
            with pytest.raises(InputError, match=r"model=.* must be a CXRModel or an ExportedModel or a Pipeline"):
                predict(odd, frame["path"])


class TestFiles:
    def test_a_model_that_was_loaded_can_be_saved_again(self, pipeline, frame, tmp_path):
        metadata = {"recipe": "mine"}
        first = save_model(CXRModel(pipeline, 0.3, metadata=metadata), tmp_path / "first.skops")
        model = load_model(tmp_path / "first.skops", store=None)
        assert model.metadata == json.loads(json.dumps(first))
        model.threshold = 0.6
        second = save_model(model, tmp_path / "second.joblib")
        assert (second["recipe"], second["threshold"], second["kind"]) == ("mine", 0.6, "joblib")
        assert load_model(tmp_path / "second.joblib", trusted=True, store=None).threshold == 0.6

    def test_the_earlier_names_still_work_and_say_so(self, pipeline, frame, tmp_path):
        with pytest.warns(FutureWarning, match="save is deprecated"):
            cxr_sklearn.save(pipeline, tmp_path / "model.skops", threshold=0.9, recipe="mine")
        with pytest.warns(FutureWarning, match="load is deprecated"):
            model = cxr_sklearn.load(tmp_path / "model.skops", store=None)
        assert (model.threshold, model.metadata["recipe"]) == (0.9, "mine")
        scores = pipeline.predict_proba(frame["path"])[:, 1]
        np.testing.assert_array_equal(model.predict(frame["path"]), scores >= 0.9)


class TestWhatMayGoWrong:
    @pytest.mark.parametrize("dtype", [bool, float])
    def test_classes_of_another_type_decide_alike(self, frame, dtype):
        fitted = load_recipe("shortcuts").build(store=None).fit(frame["path"], frame["target"].astype(dtype))
        model = CXRModel(fitted, 0.4)
        decision = predict(model, frame["path"], store=None)["decision"]
        assert ((decision == "pneumonia") == model.predict(frame["path"]).astype(bool)).all()

    @pytest.mark.parametrize("method", [None, *METHODS])
    def test_an_image_without_a_score_does_not_stop_the_others(self, pipeline, frame, method):
        class SometimesNaN(LogisticRegression):
            def predict_proba(self, X):
                found = super().predict_proba(X)
                found[:1] = np.nan
                return found

        calibrator = None if method is None else calibrator_of(pipeline, frame, method)
        odd = make_pipeline(ShortcutFeatures(None), SometimesNaN(max_iter=5000)).fit(frame["path"], frame["target"])
        table = predict(CXRModel(odd, calibrator=calibrator), frame["path"].iloc[:3], store=None)
        assert table["error"].isna().tolist() == [False, True, True]
        assert table["decision"].notna().tolist() == [False, True, True]

    def test_other_classifiers_than_pipelines_come_back(self, pipeline, frame, tmp_path):
        whole = BalancedClassifier(load_recipe("shortcuts").build(store=None), "undersample", random_state=0)
        model = CXRModel(whole.fit(frame["path"], frame["target"]), 0.3)
        save_model(model, tmp_path / "model.skops")
        again = load_model(tmp_path / "model.skops", store=None)
        np.testing.assert_array_equal(again.predict(frame["path"]), model.predict(frame["path"]))

    def test_a_pipeline_that_cannot_be_copied(self, pipeline, frame, tmp_path):
        locked = copy.copy(pipeline)
        locked.lock_ = threading.Lock()
        with pytest.raises(ModelError, match="cannot be copied"):
            save_model(locked, tmp_path / "model.joblib")

    @pytest.mark.parametrize("paths", ["scan.jpeg", Path("scan.jpeg"), pd.DataFrame({"path": ["scan.jpeg"]})])
    def test_a_single_path_or_a_frame_is_no_list_of_paths(self, pipeline, paths):
        with pytest.raises(InputError, match=r"paths=.* must be a list, not|paths must be a list or Series of paths"):
            predict(pipeline, paths)

    def test_metadata_of_another_kind(self, pipeline, tmp_path, monkeypatch):
        with pytest.raises(InputError, match="metadata must be a dict, not list"):
            save_model(CXRModel(pipeline, metadata=[1]), tmp_path / "model.skops")
        monkeypatch.setattr("cxr_sklearn.models.files._LONGEST_MANIFEST", 10_000)
        with pytest.raises(InputError, match="bytes, more than the 10,000 allowed"):
            save_model(CXRModel(pipeline, metadata={"notes": "x" * 11_000}), tmp_path / "model.skops")
