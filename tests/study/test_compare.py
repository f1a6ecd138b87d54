import errno
import json
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn import metrics as sk
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin
from sklearn.decomposition import PCA
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import StackingClassifier
from sklearn.feature_selection import SelectKBest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from cxr_sklearn import ImageLoader, ShortcutFeatures, compare, load_folder, load_frame, train, write_radiographs
from cxr_sklearn.datasets import audit, shift
from cxr_sklearn.datasets._frame import checked_frame
from cxr_sklearn.evaluation.diagnosis import diagnose
from cxr_sklearn.evaluation.tables import read_table
from cxr_sklearn.evaluation.thresholds import find_threshold, parse_rule
from cxr_sklearn.exceptions import DataError, InputError, RecipeError, TrainingError, WeightsUnavailableError
from cxr_sklearn.features._image_stats import SIZE
from cxr_sklearn.models.files import load_model
from cxr_sklearn.report.words import words
from cxr_sklearn.study import search
from cxr_sklearn.study.recipes import load_recipe
from cxr_sklearn.study.run_folder import write_results

from ..conftest import FROZEN, ROOT

ROW_MEANS = ROOT / "tests" / "row_means.py"


def test_keras_is_not_needed_when_every_feature_is_kept(run):
    metrics, _, frame = run
    facts = metrics["pipelines"]["vgg16_logistic"]
    assert (facts["n_embedded"], facts["n_cached"]) == (0, len(frame))
    assert facts["backbones"][0]["weights_id"] == "random:0"
    assert metrics["pipelines"]["shortcuts"]["backbones"] == []


def test_what_is_written(run):
    metrics, out, _ = run
    names = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    models = {f"models/{name}.skops" for name in FROZEN}
    assert (
        names
        == {"scores.csv", "images.csv", "errors.csv", "doubtful_labels.csv", "metrics.json", "report.html"}
        | {"model-card.md", "run-files.json"}
        | models
    )
    assert json.loads((out / "metrics.json").read_text()) == metrics
    assert list(metrics["pipelines"]) == FROZEN


def test_one_score_per_image_pipeline_and_role(run):
    _, out, frame = run
    scores = pd.read_csv(out / "scores.csv")
    assert len(scores) == len(FROZEN) * len(frame)
    assert not scores.duplicated(["path", "pipeline"]).any()
    assert scores["score"].between(0, 1).all()
    assert (scores["fold"].isna() == (scores["split"] != "train")).all()
    by_patient = scores[scores["split"] == "train"].groupby(["pipeline", "patient"])["fold"].nunique()
    assert (by_patient == 1).all()
    merged = scores.merge(frame, on="path", suffixes=("", "_frame"))
    assert (merged["target"] == merged["target_frame"]).all()
    assert (merged["split"] == merged["split_frame"]).all()


def test_features_beat_shortcuts(run):
    """On synthetic radiographs, the classes differ only in the lungs."""
    metrics, _, _ = run
    auc = {name: facts["cv"]["roc_auc"]["mean"] for name, facts in metrics["pipelines"].items()}
    assert auc["vgg16_logistic"] > auc["shortcuts"] + 0.1


def test_circumstances(run):
    metrics, _, frame = run
    assert metrics["data"]["images"] == len(frame)
    assert metrics["data"]["patients"] == frame["patient"].nunique()
    assert metrics["pipelines"]["vgg16_logistic"]["best_params"] == {}
    assert all(set(facts["seconds"]) == {"embedding", "fitting", "scoring"} for facts in metrics["pipelines"].values())


def test_the_same_seed_gives_the_same_table(run, embedded_frame, tmp_path):
    _, out, _ = run
    frame, store = embedded_frame
    compare(frame, ["vgg16_logistic"], out=tmp_path, weights="random", store=store, cv=3)
    first = pd.read_csv(out / "scores.csv").query("pipeline == 'vgg16_logistic'").reset_index(drop=True)
    again = pd.read_csv(tmp_path / "scores.csv").query("pipeline == 'vgg16_logistic'")
    pd.testing.assert_frame_equal(again, first)


def test_test_images_decide_nothing(run, embedded_frame, tmp_path):
    """Swapping the test labels changes no score, threshold or parameter."""
    _, out, _ = run
    frame, store = embedded_frame
    turned = frame.assign(target=frame["target"].where(frame["split"] != "test", 1 - frame["target"]))
    metrics = compare(turned, ["vgg16_logistic"], out=tmp_path, weights="random", store=store, cv=3)
    before = json.loads((out / "metrics.json").read_text())["pipelines"]["vgg16_logistic"]
    after = metrics["pipelines"]["vgg16_logistic"]
    assert after["threshold"] == before["threshold"]
    assert after["best_params"] == before["best_params"]
    assert after["test"]["roc_auc"]["value"] == pytest.approx(1 - before["test"]["roc_auc"]["value"])


@pytest.mark.parametrize(("balance", "of_shortcuts"), [("undersample", "undersample"), ("augment", "none")])
def test_balance_reaches_every_pipeline_that_it_can(run, embedded_frame, tmp_path, balance, of_shortcuts):
    _, out, _ = run
    frame, store = embedded_frame
    with pytest.warns(UserWarning, match=r"the model is kept as .*row_means\.joblib"):
        metrics = compare(frame, [ROW_MEANS, "shortcuts"], out=tmp_path, store=store, cv=3, balance=balance)
    assert {name: facts["balance"] for name, facts in metrics["pipelines"].items()} == {
        "row_means": balance,
        "shortcuts": of_shortcuts,
    }
    grid = load_recipe(ROW_MEANS).param_grid["classify__C"]
    (best,) = metrics["pipelines"]["row_means"]["best_params"].values()
    assert best in grid
    before, after = (
        pd.read_csv(folder / "scores.csv").set_index(["pipeline", "path"])["score"] for folder in (out, tmp_path)
    )
    assert after["shortcuts"].equals(before["shortcuts"]) == (of_shortcuts == "none")
    assert f"<td>{balance}</td>" in (tmp_path / "report.html").read_text()


def test_a_classifier_that_takes_groups_gets_the_patients_of_its_images(embedded_frame, tmp_path):
    frame, store = embedded_frame
    (tmp_path / "grouped.py").write_text(
        "from sklearn.linear_model import LogisticRegression\nfrom sklearn.pipeline import Pipeline\n"
        "from cxr_sklearn import BalancedClassifier, ShortcutFeatures\n"
        "class Grouped(LogisticRegression):\n"
        "    def fit(self, X, y, groups=None):\n"
        "        assert len(groups) == len(X) and len(set(groups)) < len(X)\n"
        "        assert all(len(set(y[groups == g])) == 1 for g in set(groups))\n"
        "        return super().fit(X, y)\n"
        "def build(store):\n"
        "    classifier = BalancedClassifier(Grouped(max_iter=10000), 'undersample')\n"
        "    return Pipeline([('measure', ShortcutFeatures(store=store)), ('classify', classifier)])\n"
    )
    with pytest.warns(UserWarning, match="the model of grouped is not kept: .*cxr_sklearn_recipe_grouped.Grouped"):
        compare(frame, [tmp_path / "grouped.py"], out=tmp_path / "run", store=store, cv=3)
    assert [path.name for path in (tmp_path / "run" / "models").iterdir()] == ["shortcuts.skops"]


@pytest.mark.parametrize("calibrate", [None, "isotonic", "temperature"])
def test_the_saved_model_gives_the_saved_scores(embedded_frame, tmp_path, calibrate):
    frame, store = embedded_frame
    metrics = compare(frame, ["shortcuts"], out=tmp_path, store=store, cv=3, calibrate=calibrate)
    assert metrics["pipelines"]["shortcuts"]["calibrated"] == calibrate
    path = tmp_path / "models" / "shortcuts.skops"
    model = load_model(path, store=store)
    scores = pd.read_csv(tmp_path / "scores.csv").query("split == 'test'")
    np.testing.assert_allclose(model.predict_proba(scores["path"])[:, 1], scores["score"], rtol=1e-6)


def test_a_recipe_by_its_name_alone_and_a_number_for_a_threshold(embedded_frame, tmp_path):
    frame, store = embedded_frame
    metrics = compare(frame, "shortcuts", out=tmp_path, store=store, cv=3, threshold=0.4)
    assert metrics["pipelines"]["shortcuts"]["threshold"]["value"] == 0.4


def test_a_recipe_whose_name_looks_like_a_formula(embedded_frame, tmp_path):
    frame, store = embedded_frame
    path = tmp_path / "a$\\frac$b.py"
    path.write_text(
        "from sklearn.linear_model import LogisticRegression\nfrom sklearn.pipeline import Pipeline\n"
        "from cxr_sklearn import ShortcutFeatures\n"
        "def build(store):\n"
        "    classifier = LogisticRegression(max_iter=9999)\n"
        "    return Pipeline([('measure', ShortcutFeatures(store=store)), ('classify', classifier)])\n"
    )
    compare(frame, [path], out=tmp_path / "run", store=store, cv=3)
    assert "a$\\frac$b" in (tmp_path / "run" / "report.html").read_text()


def test_images_of_unknown_patients_are_counted_and_reported(embedded_frame, tmp_path):
    frame, store = embedded_frame
    own = frame["path"].str.split("/").str[-3:].str.join("/")
    few = frame.assign(patient=frame["patient"].where(frame["split"] != "test", own))
    metrics = compare(few, "shortcuts", out=tmp_path, store=store, cv=3)
    n_test = int((frame["split"] == "test").sum())
    assert metrics["data"]["patients_unknown"] == n_test
    assert f"Images without a known patient: {n_test}." in (tmp_path / "report.html").read_text()


def test_a_calibration_that_would_reverse_the_ranking_is_left_out_and_the_report_says_so(tmp_path):
    """The images have the same pixels in different places, so the recipe shortcuts sees no difference."""
    rng, grey = np.random.default_rng(0), np.arange(64 * 64).astype(np.uint8)
    rows = []
    for i in range(90):
        split, target = "test" if i % 3 == 0 else "train", i // 3 % 2
        path = tmp_path / f"{i}.png"
        Image.fromarray(rng.permuted(grey).reshape(64, 64)).save(path)
        rows.append((str(path), target, split, f"p{i}"))
    frame = pd.DataFrame(rows, columns=["path", "target", "split", "patient"])
    plain, calibrated = (
        compare(frame, "shortcuts", out=tmp_path / f"{method}", store=None, cv=3, calibrate=method)
        for method in (None, "sigmoid")
    )
    assert calibrated["pipelines"]["shortcuts"]["calibrated"] == "reversed"
    assert calibrated["pipelines"]["shortcuts"]["test"] == plain["pipelines"]["shortcuts"]["test"]
    assert "would reverse the ranking" in (tmp_path / "sigmoid" / "report.html").read_text()


def test_calibration_uses_no_test_image(embedded_frame, tmp_path):
    frame, store = embedded_frame
    turned = frame.assign(target=frame["target"].where(frame["split"] != "test", 1 - frame["target"]))
    tables = []
    for name, images in (("as it is", frame), ("turned", turned)):
        compare(images, ["shortcuts"], out=tmp_path / name, store=store, cv=3, calibrate="sigmoid")
        tables.append(pd.read_csv(tmp_path / name / "scores.csv")["score"])
    pd.testing.assert_series_equal(*tables)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"threshold": "best"}, "must be youden"),
        ({"calibrate": "magic"}, "calibrate='magic' must be one of"),
        ({"lang": "fr"}, "lang='fr' must be one of"),
        ({"balance": "much"}, "balance='much' must be one of"),
        ({"cv": 0}, "cv=0 must be an integer of at least 1"),
        ({"cv": "5"}, "cv='5' must be an integer, not str"),
        ({"repeats": 0}, "repeats=0 must be an integer of at least 1"),
        ({"n_jobs": 0}, "n_jobs=0 must be None or an integer other than 0"),
    ],
)
def test_wrong_options_fail_at_once(embedded_frame, tmp_path, option, message):
    with pytest.raises(InputError, match=message):
        compare(embedded_frame[0], ["shortcuts"], out=tmp_path / "run", **option)
    assert not (tmp_path / "run").exists()


@pytest.mark.keras
def test_a_trained_network_leaves_its_curves_and_a_diagnosis(tmp_path):
    write_radiographs(tmp_path / "images", 40, size=32, random_state=0)
    (tmp_path / "cnn.py").write_text(
        "from sklearn.pipeline import Pipeline\nfrom cxr_sklearn import ImageLoader, ScratchCNNClassifier\n"
        "def build(random_state):\n"
        "    cnn = ScratchCNNClassifier((4, 8), batch_norm_statistics='moving', epochs=2, random_state=random_state)\n"
        "    return Pipeline([('load', ImageLoader(size=32)), ('classify', cnn)])\n"
    )
    metrics = compare(load_folder(tmp_path / "images"), [tmp_path / "cnn.py"], out=tmp_path / "run", cv=2, sanity=True)
    facts = metrics["pipelines"]["cnn"]
    training = pd.read_csv(tmp_path / "run" / "training.csv")
    assert training["epoch"].tolist() == [1, 2]
    assert set(training["phase"]) == {"all"}
    assert np.isfinite(training[["loss", "auc", "val_loss", "val_auc"]]).all(axis=None)
    assert facts["batch_norm"]["used"] == "moving"
    hidden = pd.read_csv(tmp_path / "run" / "probes.csv").query("pipeline == 'cnn' and probe == 'centre'")
    auc = sk.roc_auc_score(hidden["target"], hidden["score"])
    assert facts["sanity"]["occlusion"]["centre"]["roc_auc"] == pytest.approx(auc)
    scores = pd.read_csv(tmp_path / "run" / "scores.csv").query("split == 'test'")
    assert facts["diagnosis"] == diagnose(scores, facts["test"]["roc_auc"]["value"], training, facts["batch_norm"])
    page = (tmp_path / "run" / "report.html").read_text()
    assert "How the training went" in page
    assert write_results(tmp_path / "run") == metrics  # as `cxr-sklearn report` does
    assert (tmp_path / "run" / "report.html").read_text() == page


def test_missing_weights_are_found_out_before_images_are_looked_at(embedded_frame, tmp_path, monkeypatch):
    monkeypatch.setattr("cxr_sklearn.study.compare.check_images", None)
    with pytest.raises(WeightsUnavailableError, match=r"nowhere\.h5"):
        compare(embedded_frame[0], ["vgg16_logistic"], out=tmp_path / "run", weights=tmp_path / "nowhere.h5", cv=3)
    assert not (tmp_path / "run").exists()


def test_columns_that_divide_the_report_are_kept_with_the_images(embedded_frame, tmp_path):
    frame, store = embedded_frame
    ward = pd.Series(np.where(np.arange(len(frame)) % 2, "NA", "1.50"), frame.index)
    frame = frame.assign(Ward=ward, age=np.arange(len(frame)) % 90, other=1)
    metrics = compare(frame, ["shortcuts"], out=tmp_path, store=store, cv=3, by=["ward", "age"])
    images = read_table(tmp_path, "images").set_index("path")
    assert images.columns[-2:].tolist() == ["by_Ward", "by_age"]
    assert images["by_Ward"].tolist() == frame.set_index("path")["Ward"][images.index].tolist()
    found = metrics["pipelines"]["shortcuts"]["by"]
    assert list(found) == ["Ward", "age"]
    tested = frame[frame["split"] == "test"]
    assert {row["group"]: row["images"] for row in found["Ward"]["groups"]} == tested["Ward"].value_counts().to_dict()
    page = (tmp_path / "report.html").read_text()
    assert write_results(tmp_path) == metrics
    assert (tmp_path / "report.html").read_text() == page


@pytest.mark.parametrize(("by", "message"), [
    (("sexx",), "there is no column 'sexx' to divide by; the table has"), ("patient", "column 'patient' divides no"),
])  # fmt: skip
def test_columns_that_are_not_there_are_refused_before_any_work(embedded_frame, tmp_path, monkeypatch, by, message):
    monkeypatch.setattr("cxr_sklearn.study.compare.check_images", None)
    with pytest.raises(DataError, match=message):
        compare(embedded_frame[0], ["shortcuts"], out=tmp_path / "run", by=by)
    assert not (tmp_path / "run").exists()


def test_a_pipeline_that_fails_in_a_probe_keeps_its_results(embedded_frame, tmp_path, monkeypatch):
    frame, store = embedded_frame

    def fails(name, *_, **__):
        raise ValueError("no labels like these")

    monkeypatch.setattr("cxr_sklearn.study.compare.permuted_rows", fails)
    with pytest.warns(UserWarning, match="shortcuts failed: ValueError: no labels like these; the report lacks"):
        metrics = compare(frame, ["shortcuts"], out=tmp_path, store=store, cv=3, sanity=True)
    assert list(metrics["pipelines"]) == list(metrics["failed"]) == ["shortcuts"]
    assert (tmp_path / "models" / "shortcuts.skops").is_file()


def test_a_failing_recipe_does_not_affect_finished_ones(embedded_frame, tmp_path):
    frame, store = embedded_frame
    (tmp_path / "breaks.py").write_text(
        "from sklearn.pipeline import Pipeline\nfrom sklearn.linear_model import LogisticRegression\n"
        "from cxr_sklearn import ShortcutFeatures\n"
        "def build(store):\n"
        "    return Pipeline([('measure', ShortcutFeatures(store=store)), ('classify', LogisticRegression(C=-1))])\n"
    )
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "report.html").write_text("of an earlier run")
    with pytest.warns(UserWarning, match="^breaks failed: InvalidParameterError: The 'C' parameter"):
        metrics = compare(
            frame, [tmp_path / "breaks.py", "shortcuts"], out=tmp_path / "run", store=store, cv=3, overwrite=True
        )
    assert list(metrics["failed"]) == ["breaks"]
    assert metrics == json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert set(pd.read_csv(tmp_path / "run" / "scores.csv")["pipeline"]) == {"shortcuts"}
    assert (tmp_path / "run" / "models" / "shortcuts.skops").exists()
    assert list(json.loads((tmp_path / "run" / "metrics.json").read_text())["pipelines"]) == ["shortcuts"]
    page = (tmp_path / "run" / "report.html").read_text()
    for text in (page, (tmp_path / "run" / "model-card.md").read_text().replace("\\", "")):
        assert "Results of a pipeline are missing. breaks failed: InvalidParameterError: The" in text
    assert write_results(tmp_path / "run") == metrics
    assert (tmp_path / "run" / "report.html").read_text() == page


class Failing(ClassifierMixin, BaseEstimator):
    """Fails where it is told to: in fit, or when it scores."""

    def __init__(self, error=ValueError, where="fit"):
        self.error = error
        self.where = where

    def fit(self, X, y):
        if self.where == "fit":
            raise self.error("in\nseveral   lines " + "x" * 2000)
        self.classes_ = np.array([0, 1])
        return self

    def predict_proba(self, X):
        if self.where == "predict":
            raise self.error("while scoring")
        scores = {"outside": 1.5, "nan": np.nan}.get(self.where, 0.5)
        return np.full((len(X) + (self.where == "longer"), 2), scores)


class TestPipelinesThatFail:
    def compared(self, embedded_frame, out, failing, **options):
        frame, store = embedded_frame
        pipelines = {"fails": make_pipeline(ShortcutFeatures(store=store), failing), "shortcuts": "shortcuts"}
        return compare(frame, pipelines, out=out, store=store, cv=3, **options)

    @pytest.mark.parametrize(
        ("failing", "message"),
        [
            (Failing(ZeroDivisionError), "^fails failed: ZeroDivisionError: in several lines"),
            (Failing(AttributeError, "predict"), "^fails failed: AttributeError: while scoring"),
            (Failing(MemoryError, "predict"), "^fails failed: MemoryError"),
            (Failing(where="outside"), "^fails failed: .* scores that are not"),
            (Failing(where="longer"), "^fails failed: .* scores that are not"),
            (Failing(where="nan"), "^fails failed: .* images no score"),
            (DummyClassifier(strategy="unknown"), "^fails failed: InvalidParameterError"),
            (GridSearchCV(LogisticRegression(), {"C": [-1, -2]}, cv=2), "^fails failed: ValueError: .*All the 4 fits"),
        ],
    )
    def test_others_go_on(self, embedded_frame, tmp_path, failing, message):
        with pytest.warns(UserWarning, match=message) as noted:
            metrics = self.compared(embedded_frame, tmp_path, failing)
        assert all("\n" not in str(warning.message) for warning in noted)
        assert list(metrics["pipelines"]) == ["shortcuts"]
        (reason,) = metrics["failed"].values()
        assert len(reason) < 600
        assert [path.name for path in (tmp_path / "models").iterdir()] == ["shortcuts.skops"]

    def test_in_a_worker(self, embedded_frame, tmp_path):
        with pytest.warns(UserWarning, match="fails failed: KeyError"):
            metrics = self.compared(embedded_frame, tmp_path, Failing(KeyError), n_jobs=2)
        assert list(metrics["pipelines"]) == ["shortcuts"]

    def test_all_of_them(self, embedded_frame, tmp_path):
        frame, store = embedded_frame
        pipelines = {name: make_pipeline(ShortcutFeatures(store=store), Failing()) for name in ("one", "two")}
        with pytest.raises(TrainingError, match=r"^one failed: ValueError: .*; two failed: ValueError: "):
            compare(frame, pipelines, out=tmp_path, store=store, cv=3)
        page = (tmp_path / "report.html").read_text()  # of the shortcuts, which nobody asked for
        assert "one failed" in page
        assert "two failed" in page

    def test_a_full_disk_is_not_their_failure(self, embedded_frame, tmp_path, monkeypatch):
        def full(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("cxr_sklearn.study._writer.write_table", full)
        with pytest.raises(OSError, match="No space left"):
            compare(embedded_frame[0], "shortcuts", out=tmp_path, store=embedded_frame[1], cv=3)

    @pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
    def test_who_stops_the_run_stops_it(self, embedded_frame, tmp_path, error):
        with pytest.raises(error):
            self.compared(embedded_frame, tmp_path, Failing(error))

    def test_train_names_it(self, embedded_frame):
        frame, store = embedded_frame
        with pytest.raises(TrainingError, match=r"^mine failed: ValueError: in several lines"):
            train(frame, {"mine": make_pipeline(ShortcutFeatures(store=store), Failing())}, store=store, cv=3)


def test_a_patient_with_both_labels_who_leaves_a_fold_with_one(embedded_frame, tmp_path):
    frame, store = embedded_frame
    train = frame[(frame["split"] == "train")].copy()
    big = train["patient"].where(train.groupby("target").cumcount() < 2, "everybody else")
    with pytest.raises(DataError, match=r"too few for 3 folds|without both classes"):
        compare(pd.concat([train.assign(patient=big), frame[frame["split"] == "test"]]), ["shortcuts"],
                out=tmp_path, store=store, cv=3)  # fmt: skip


def test_embedders_inside_other_steps_are_found(embedded_frame, tmp_path):
    frame, store = embedded_frame
    (tmp_path / "union.py").write_text(
        "from sklearn.linear_model import LogisticRegression\nfrom sklearn.pipeline import FeatureUnion, Pipeline\n"
        "from cxr_sklearn import FrozenEmbedder, ImageLoader\n"
        "def build(store, weights):\n"
        "    union = FeatureUnion([('net', FrozenEmbedder(weights=weights, store=store))])\n"
        "    return Pipeline([('no', 'passthrough'), ('load', ImageLoader()), ('none', None), ('both', union),\n"
        "                     ('classify', LogisticRegression(max_iter=9000))])\n"
    )
    compare(frame, [tmp_path / "union.py"], out=tmp_path / "run", weights="random", store=store, cv=3)
    assert "union (random weights)" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda frame: frame[frame["target"] == 1], "no normal images in the train split"),
        (lambda frame: frame[frame["split"] != "test"], "no normal images in the test split"),
        (lambda frame: frame.assign(patient="one"), "1 normal patients in the train split are too few for 3 folds"),
        (
            lambda frame: frame.assign(patient=frame["patient"].mask(frame["split"] == "test", "one")),
            "one normal patient in the test split",
        ),
        (lambda frame: frame.drop(columns=["patient", "split"]), r"lacks the columns \['split', 'patient'\]"),
        (lambda frame: frame.assign(patient=frame["patient"].mask(frame.index == 3)), "images without patient"),
        (lambda frame: pd.concat([frame, frame[:1]]), "duplicate path"),
    ],
)
def test_tables_that_cannot_be_compared_on(embedded_frame, tmp_path, spoil, message):
    frame, store = embedded_frame
    with pytest.raises(DataError, match=message):
        compare(spoil(frame), ["shortcuts"], out=tmp_path / "run", store=store, cv=3)
    assert not (tmp_path / "run").exists()


def moved_to_val(frame, n_patients):
    """Take normal training patients for the validation split, which then has enough of both classes."""
    normal = frame[(frame["split"] == "train") & (frame["target"] == 0)]
    is_moved = frame["patient"].isin(normal["patient"].unique()[:n_patients])
    return frame.assign(split=frame["split"].mask(is_moved, "val"))


@pytest.mark.parametrize(("n_moved", "source"), [(0, "held-out"), (6, "val")])
@pytest.mark.parametrize("calibrate", [None, "sigmoid"])
def test_changed_images_are_scored_and_reported(embedded_frame, tmp_path, n_moved, source, calibrate):
    frame, store = embedded_frame
    frame, out = moved_to_val(frame, n_moved), tmp_path / "run"
    with pytest.warns(UserWarning, match=r"the model is kept as .*row_means\.joblib"):
        metrics = compare(frame, [ROW_MEANS], out=out, store=store, cv=3, stress=True, calibrate=calibrate)
    scores, probes = (pd.read_csv(out / f"{table}.csv") for table in ("scores", "probes"))
    assert set(probes["pipeline"]) == {"row_means"}
    scores = scores[scores["pipeline"] == "row_means"]
    facts = metrics["pipelines"]["row_means"]
    assert metrics["pipelines"]["shortcuts"]["stress"] is None
    assert facts["stress"]["source"] == source
    rows = scores.query("split == 'val'" if source == "val" else "fold == 0")
    assert facts["stress"]["n_images"] == len(rows)
    for name, found in {"clean": facts["stress"]["clean"], **facts["stress"]["changes"]}.items():
        changed = rows if (name, source) == ("clean", "val") else probes[probes["probe"] == f"stress:{name}"]
        assert set(changed["path"]) == set(rows["path"])
        assert found["roc_auc"] == pytest.approx(sk.roc_auc_score(changed["target"], changed["score"]))
        called = changed["score"] >= facts["threshold"]["value"]
        assert found["recall"] == sk.recall_score(changed["target"], called)
        assert found["specificity"] == sk.recall_score(changed["target"], called, pos_label=0)
        assert found["called_pneumonia"] == called.mean()
    if source == "held-out" and calibrate is None:  # the refit repeats the fit of the fold
        clean = probes[probes["probe"] == "stress:clean"].set_index("path")["score"]
        pd.testing.assert_series_equal(clean, rows.set_index("path")["score"])
    page = (out / "report.html").read_text()
    assert "by this table, not by test" in page
    assert "does not load its images with an ImageLoader: shortcuts</p>" in " ".join(page.split())
    assert "by this table, not by test" in (out / "model-card.md").read_text()
    assert write_results(out) == metrics  # as `cxr-sklearn report` does
    assert (out / "report.html").read_text() == page


def test_changed_images_are_calibrated_as_the_others_are(embedded_frame, tmp_path):
    frame, store = embedded_frame
    clean = []
    for calibrate in (None, "sigmoid"):
        with pytest.warns(UserWarning, match="the model is kept as"):
            compare(frame, [ROW_MEANS], out=tmp_path, store=store, cv=3, stress=True, calibrate=calibrate)
        probes = pd.read_csv(tmp_path / "probes.csv")
        clean.append(probes[probes["probe"] == "stress:noisy"]["score"].to_numpy())
    assert not np.allclose(*clean)
    assert np.argsort(clean[0]).tolist() == np.argsort(clean[1]).tolist()


def test_nothing_is_changed_unless_asked(run):
    metrics, out, _ = run
    assert [facts["stress"] for facts in metrics["pipelines"].values()] == [None] * len(FROZEN)
    assert "Changed images were not tried" in (out / "report.html").read_text()
    assert "changed images" not in (out / "model-card.md").read_text()


@pytest.mark.parametrize(("n_moved", "split"), [(0, "train"), (6, "val")])
def test_a_robust_threshold_is_chosen_on_changed_images_too(embedded_frame, tmp_path, n_moved, split):
    frame, store = embedded_frame
    frame = moved_to_val(frame, n_moved)
    with pytest.warns(UserWarning, match=r"the model is kept as .*row_means\.joblib"):
        metrics = compare(frame, [ROW_MEANS], out=tmp_path, store=store, cv=3, threshold="robust")
    scores, probes = (pd.read_csv(tmp_path / f"{name}.csv") for name in ("scores", "probes"))
    clean = scores[(scores["pipeline"] == "row_means") & (scores["split"] == split)]
    # Unchanged training images are among the probes, scored by the model that was fitted without them.
    seen = probes if split == "train" else pd.concat([clean, probes])
    assert len(set(seen.groupby("path").size())) == 1
    chosen = metrics["pipelines"]["row_means"]["threshold"]
    assert chosen["value"] == find_threshold(parse_rule("robust"), seen["target"], seen["score"])
    assert metrics["pipelines"]["row_means"]["stress"] is not None
    assert train(frame, ROW_MEANS, store=store, cv=3, threshold="robust").threshold == pytest.approx(chosen["value"])


@pytest.mark.parametrize("lang", ["en", "es"])
@pytest.mark.parametrize("calibrate", [None, "isotonic"])
def test_one_fold_and_a_robust_threshold_are_reported_alike_twice(embedded_frame, tmp_path, lang, calibrate):
    frame, store = embedded_frame
    options = {"store": store, "cv": 1, "threshold": "robust", "calibrate": calibrate, "lang": lang}
    with pytest.warns(UserWarning, match="the model is kept as"):
        metrics = compare(frame, [ROW_MEANS], out=tmp_path, **options)
    assert metrics["run"]["stress"]
    assert [facts["crop"] for facts in metrics["pipelines"].values()] == [1.0, 1.0]
    assert {name: facts["threshold"]["rule"] for name, facts in metrics["pipelines"].items()} == {
        "row_means": "robust",
        "shortcuts": "youden",
    }
    page, card = ((tmp_path / name).read_text() for name in ("report.html", "model-card.md"))
    texts = words(lang)
    assert texts("stress.robust") in page
    assert texts("cv.caption_of_one") in page
    assert "±" not in page[page.index('id="cv"') : page.index('id="data"')]
    assert texts("card.selection_of_one") in card
    assert write_results(tmp_path) == metrics
    assert (tmp_path / "report.html").read_text() == page


def test_pipelines_that_cannot_be_stressed_have_a_robust_run_of_their_own(embedded_frame, tmp_path):
    frame, store = embedded_frame
    metrics = compare(frame, ["shortcuts"], out=tmp_path, store=store, cv=3, threshold="robust")
    assert write_results(tmp_path) == metrics


def test_a_robust_threshold_without_changed_images(run):
    with pytest.raises(DataError, match="run compare --stress"):
        write_results(run[1], threshold="robust")


class OwnFeatures(TransformerMixin, BaseEstimator):
    """A user's own step, with parameters of the same names as ours."""

    def __init__(self, backbone="resnet18", weights=None):
        self.backbone = backbone
        self.weights = weights

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


def features():
    return make_pipeline(ImageLoader(size=8), OwnFeatures(), StandardScaler())


def head():
    return LogisticRegression(max_iter=2000)


@pytest.mark.parametrize("balance", ["none", "weights", "augment"])
@pytest.mark.parametrize(
    ("mine", "steps"),
    [
        (
            make_pipeline(make_pipeline(features(), PCA(3)), head()),
            "ImageLoader, OwnFeatures, StandardScaler, PCA, Log",
        ),
        (make_pipeline(make_pipeline(features(), SelectKBest(k=3)), head()), "ImageLoader, OwnFeatures, StandardS"),
        (make_pipeline(features(), GridSearchCV(head(), {"C": [0.1, 1]}, cv=2)), "ImageLoader, OwnFeatures"),
        ((make_pipeline(features(), head()), {"logisticregression__C": [0.1, 1]}), "ImageLoader, OwnFeatures"),
        (StackingClassifier([("a", make_pipeline(features(), head()))], head(), cv=2), "StackingClassifier."),
        (Pipeline([("load", ImageLoader(size=8)), ("no", None), ("own", OwnFeatures()), ("c", head())]), "ImageLoader"),
    ],
    ids=["nested PCA", "SelectKBest", "search inside", "with a grid", "stack on top", "None step"],
)
def test_estimators_in_variables(embedded_frame, tmp_path, mine, steps, balance):
    frame, store = embedded_frame
    if (
        isinstance(mine, StackingClassifier) and balance == "weights"
    ):  # scikit-learn passes weights on to no pipeline in it
        with pytest.raises(ValueError, match="does not accept the sample_weight parameter"):
            compare(frame, {"mine": mine}, out=tmp_path, store=store, cv=3, balance=balance)
        return
    with pytest.warns(UserWarning, match=r"the model is kept as .*mine\.joblib"):
        metrics = compare(frame, {"mine": mine}, out=tmp_path, store=store, cv=3, sanity=True, balance=balance)
    assert set(metrics["pipelines"]) == {"mine", "shortcuts"}
    facts = metrics["pipelines"]["mine"]
    assert facts["description"].startswith(steps)
    assert set(facts["sanity"]["occlusion"]) == {"border", "centre"}  # however the loader is wrapped
    if balance == "none":
        model = train(frame, {"mine": mine}, store=store, cv=3)
        assert model.threshold == pytest.approx(facts["threshold"]["value"])


def test_recipes_and_estimators_side_by_side(embedded_frame, tmp_path):
    frame, store = embedded_frame
    with pytest.warns(UserWarning, match="the model is kept as"):
        metrics = compare(
            frame, {"rows": ROW_MEANS, "mine": make_pipeline(features(), head())}, out=tmp_path, store=store, cv=3
        )
    assert list(metrics["pipelines"]) == ["rows", "mine", "shortcuts"]


@pytest.mark.parametrize(
    ("pipelines", "message"),
    [
        ([make_pipeline(features(), head())], r"Pipeline has no name; give estimators in a dict, \{'mine': pipeline\}"),
        (["shortcuts", "shortcuts"], "same name"),
        ({"mine": 3}, "mine must be a recipe, an estimator or a pair"),
        ({"mine": make_pipeline(features(), LinearSVC())}, "the pipeline mine has no predict_proba"),
        (
            {"mine": (make_pipeline(features(), head()), {"c__C": [1]})},
            "the parameter grid of the pipeline mine does not",
        ),
    ],
)
def test_what_cannot_be_compared(embedded_frame, tmp_path, pipelines, message):
    with pytest.raises(RecipeError, match=message):
        compare(embedded_frame[0], pipelines, out=tmp_path)


def test_each_image_is_decoded_once_to_be_measured(decoded, tmp_path):
    """By the check; brightness, domain detectors, the recipe "shortcuts" and its folds take what that found."""
    frame = write_radiographs(tmp_path / "images", 40, size=48, random_state=0)
    with pytest.warns(UserWarning, match="the model is kept as"):
        compare(frame, ["shortcuts", ROW_MEANS], out=tmp_path / "run", store=None, cv=3, sanity=True)
    assert {path: n for (path, size), n in decoded.items() if size == SIZE} == dict.fromkeys(frame["path"], 1)
    decoded.clear()
    train(frame, make_pipeline(ImageLoader(8, crop=0.8), OwnFeatures(), head()), store=None, cv=3)
    # The detector looks at the central part of the training images, which the check did not measure.
    n = frame.set_index("path")["split"].map({"train": 2, "val": 1}).dropna().to_dict()
    assert {path: n for (path, size), n in decoded.items() if size == SIZE} == n


def test_a_frame_is_checked_once(monkeypatch, embedded_frame, tmp_path):
    checked = []
    for module in (search, audit):
        monkeypatch.setattr(module, "checked_frame", lambda frame: checked.append(1) or checked_frame(frame))
    compare(embedded_frame[0], ["shortcuts"], out=tmp_path, store=embedded_frame[1], cv=3)
    assert len(checked) == 1


def test_another_rule_for_thresholds_is_a_second_look(run, tmp_path):
    first, out, _ = run
    shutil.copytree(out, tmp_path / "run")
    notice = "The threshold rule was changed"
    for threshold, before in ((0.3, "youden"), (None, "youden"), ("sensitivity=.9", "youden"), ("youden", None)):
        metrics = write_results(tmp_path / "run", threshold=threshold)
        assert metrics["run"].get("threshold_before") == before
        for name in ("report.html", "model-card.md"):
            assert (notice in (tmp_path / "run" / name).read_text()) == (before is not None)
    assert metrics == first
    with pytest.raises(InputError, match="lang='fr'"):
        write_results(tmp_path / "run", lang="fr")


def test_drawn_images_are_called_that(tmp_path):
    write_radiographs(tmp_path / "images", 60, size=48, random_state=0)
    frame = load_folder(tmp_path / "images")
    frame = pd.concat([frame[frame["target"] == target] for target in (0, 1)])
    frame.to_csv(tmp_path / "frame.csv", index=False)
    metrics = compare(load_frame(tmp_path / "frame.csv"), "shortcuts", out=tmp_path, store=tmp_path / "store", cv=3)
    assert metrics["data"]["synthetic"]
    assert "drawn by a program" in (tmp_path / "report.html").read_text()
    assert load_model(tmp_path / "models" / "shortcuts.skops").metadata["synthetic"]
    assert train(frame, "shortcuts", store=tmp_path / "store", cv=3).metadata["synthetic"]


def test_the_saved_model_decides_as_the_report_says(embedded_frame, tmp_path):
    """At a threshold that is a score: rounded scores would be on the other side of it."""
    frame, store = embedded_frame
    thirds = make_pipeline(ImageLoader(size=8), OwnFeatures(), DummyClassifier())
    for rule, calibrate in (("sensitivity=.99", "isotonic"), ("youden", None), ("specificity=.99", "temperature")):
        with pytest.warns(UserWarning, match="the model is kept as"):
            metrics = compare(
                frame, {"mine": thirds}, out=tmp_path, store=store, cv=3, threshold=rule, calibrate=calibrate
            )
        facts = metrics["pipelines"]["shortcuts"]
        model = load_model(tmp_path / "models" / "shortcuts.skops", store=store)
        test = frame[frame["split"] == "test"]
        cells = sk.confusion_matrix(test["target"], model.predict(test["path"])).ravel().tolist()
        assert cells == [facts["confusion"][name] for name in ("tn", "fp", "fn", "tp")]
        scores = pd.read_csv(tmp_path / "scores.csv").query("pipeline == 'shortcuts' and split == 'test'")
        np.testing.assert_array_equal(model.predict_proba(scores["path"])[:, 1], scores["score"])


@pytest.mark.parametrize("name", ["a/b", "../evil", "", "x" * 101, "a\0b", 1, ".hidden"])
def test_names_that_no_model_file_can_have(embedded_frame, tmp_path, name):
    frame, _ = embedded_frame
    with pytest.raises(RecipeError, match="cannot be the name of a pipeline"):
        compare(frame, {name: make_pipeline(features(), head())}, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_infinite_parameter_stands_in_the_report(embedded_frame, tmp_path):
    frame, store = embedded_frame
    with pytest.warns(UserWarning, match="the model is kept as"):
        metrics = compare(frame, {"mine": (make_pipeline(features(), head()), {"logisticregression__C": [np.inf]})},
                          out=tmp_path, store=store, cv=2)  # fmt: skip
    assert metrics["pipelines"]["mine"]["best_params"] == {"logisticregression__C": "inf"}


def test_nothing_to_fit(embedded_frame, tmp_path):
    frame, _ = embedded_frame
    for run_of in (
        lambda: compare(frame, {}, out=tmp_path / "run"),
        lambda: train(frame, {}),
        lambda: train(frame, None),
    ):
        with pytest.raises(RecipeError, match="there is no pipeline"):
            run_of()


def test_kept_features_may_tell_the_splits_apart(embedded_frame, tmp_path, monkeypatch):
    frame, store = embedded_frame
    monkeypatch.setattr(shift, "MIN_PATIENTS", 10)
    options = {"weights": "random", "store": store, "cv": 2}
    metrics = compare(frame, "vgg16_logistic", out=tmp_path / "run", **options)
    entries = metrics["split_shift"]
    assert [(one["a"], one["b"], one["label"]) for one in entries if one["kind"] == "features"] == [
        ("train", split, label) for split in ("val", "test") for label in ("normal", "pneumonia")
    ]
    assert {one.get("pipeline") for one in entries} == {None, "vgg16_logistic"}
    assert all(0 < one["ci95"][0] < one["auc"] < one["ci95"][1] < 1 for one in entries if one["kind"] != "size")
    assert write_results(tmp_path / "run", lang="es")["split_shift"] == entries
    assert "características guardadas de vgg16" in (tmp_path / "run" / "report.html").read_text()
    # Features that nothing keeps would have to be computed for this alone.
    alone = compare(frame, "shortcuts", out=tmp_path / "other", **options)
    assert {one["kind"] for one in alone["split_shift"]} == {"size", "grey"}
