"""Saved models on images that they have not seen."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from cxr_sklearn import (
    CXRModel,
    ImageLoader,
    adapt,
    compare,
    evaluate,
    load_folder,
    load_model,
    save_model,
    write_radiographs,
)
from cxr_sklearn.exceptions import DataError, InputError, ModelError
from cxr_sklearn.models.development import cannot_know_patients, describe_development, seen_before, sentences_of_seen
from cxr_sklearn.study.run_folder import write_results

SIZE = 48


def pixels():
    """A classifier that sees the lungs and needs no Keras."""
    return make_pipeline(
        ImageLoader(size=16, crop=0.8),
        FunctionTransformer(np.mean, kw_args={"axis": 3}),
        FunctionTransformer(np.reshape, kw_args={"shape": (-1, 256)}),
        StandardScaler(),
        LogisticRegression(C=0.01),
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    return write_radiographs(tmp_path_factory.mktemp("here"), 160, size=SIZE, random_state=0)


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    return write_radiographs(tmp_path_factory.mktemp("there"), 60, size=SIZE, random_state=1, style="B")


@pytest.fixture(scope="module")
def run(here, store, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    with pytest.warns(UserWarning, match="kept as"):
        return compare(here, {"pixels": pixels()}, out=out, store=store, cv=3, calibrate="sigmoid"), out


@pytest.fixture(scope="module")
def models(run, store):
    _, out = run
    return {
        "pixels": load_model(out / "models" / "pixels.joblib", trusted=True, store=store),
        "shortcuts": load_model(out / "models" / "shortcuts.skops", store=store),
    }


@pytest.fixture(scope="module")
def judged(models, there, store, tmp_path_factory):
    out = tmp_path_factory.mktemp("judged")
    return evaluate(models, there, out=out, store=store), out


def test_on_the_test_split_of_its_run_a_model_has_the_figures_of_that_run(run, models, here, store, tmp_path):
    metrics, _ = run
    again = evaluate(models, here, out=tmp_path, split="test", store=store)
    assert again["comparisons"] == metrics["comparisons"]
    assert again["verdict"] == metrics["verdict"]
    for name, facts in metrics["pipelines"].items():
        # What is not measured on test is of the run that fitted the model.
        left_out = {"cv", "threshold", "domain", "seconds", "n_embedded", "n_cached", "backbones", "batch_norm"}
        compared = set(facts) & set(again["pipelines"][name]) - left_out
        assert {"test", "confusion", "calibration", "subgroups", "elsewhere", "at_half"} <= compared
        for key in compared:
            assert again["pipelines"][name][key] == facts[key], key
        assert again["pipelines"][name]["threshold"]["value"] == facts["threshold"]["value"]
    assert (tmp_path / "errors.csv").read_text() == (run[1] / "errors.csv").read_text()


def test_what_is_written(judged, models, there):
    metrics, out = judged
    scores = pd.read_csv(out / "scores.csv")
    assert set(scores["split"]) == {"test"}
    assert len(scores) == 2 * len(there)
    own = scores[scores["pipeline"] == "pixels"].set_index("path")["score"]
    expected = models["pixels"].predict_proba(there["path"])[:, 1]
    assert own.reindex(there["path"]).to_numpy() == pytest.approx(expected, abs=1e-12)
    facts = metrics["pipelines"]["pixels"]
    assert facts["cv"] is None
    assert facts["domain"]["images"] == (scores[scores["pipeline"] == "pixels"]["domain"] == "out").sum()
    assert json.loads((out / "metrics.json").read_text()) == metrics
    page = (out / "report.html").read_text()
    assert "Then and now" in page
    assert "Cross-validated on" not in page
    assert "then, on test" in page


def test_scores_of_development_are_kept_as_a_histogram(judged, run):
    metrics, _ = judged
    _, out = run
    kept = metrics["pipelines"]["pixels"]["development"]["scores"]
    scores = pd.read_csv(out / "scores.csv")
    own = scores[(scores["pipeline"] == "pixels") & (scores["split"] == "train")]
    for target, label in ((0, "normal"), (1, "pneumonia")):
        counts, _ = np.histogram(own.loc[own["target"] == target, "score"], 50, (0, 1))
        assert kept[label] == counts.tolist()


@pytest.mark.parametrize("lang", ["en", "es"])
def test_the_report_can_be_rendered_again(judged, tmp_path, lang):
    metrics, out = judged
    shutil.copytree(out, tmp_path / "copy")
    again = write_results(tmp_path / "copy", lang=lang)
    assert again["pipelines"] == metrics["pipelines"]
    assert again["run"]["lang"] == lang
    assert f'<html lang="{lang}">' in (tmp_path / "copy" / "report.html").read_text()
    with pytest.raises(InputError, match="carry their thresholds"):
        write_results(tmp_path / "copy", threshold="youden")


def test_images_that_a_model_was_made_with_are_refused(models, here, store, tmp_path):
    with pytest.raises(
        DataError, match=r"pixels was made with \d+ of these images and \d+ of these patients"
    ) as caught:
        evaluate(models, here, out=tmp_path / "out", store=store)
    assert not (tmp_path / "out" / "metrics.json").exists()
    n_used = here["split"].isin(["train", "val"]).sum()
    assert f"with {n_used} of these images" in str(caught.value)
    metrics = evaluate(models, here, out=tmp_path / "out", store=store, allow_leaks=True)
    assert any("pixels was made with" in sentence for sentence in metrics["run"]["leaks"])
    assert "too good to be true" in (tmp_path / "out" / "report.html").read_text()


def test_a_copy_under_another_name_is_known_again(models, here, there, store, tmp_path):
    known = here[here["split"] == "train"].iloc[0]
    copy = tmp_path / "other name.jpeg"
    shutil.copy(known["path"], copy)
    frame = pd.concat([there, pd.DataFrame([{**known, "path": str(copy), "patient": "somebody"}])])
    with pytest.raises(DataError, match="pixels was made with 1 of these images and 0 of these patients"):
        evaluate({"pixels": models["pixels"]}, frame, out=tmp_path / "out", store=store)


def test_patients_who_are_unknown_are_not_taken_for_each_other(models, there, store, tmp_path):
    frame = there.assign(patient=[f"{i}.jpeg" for i in range(len(there))])
    evaluate({"pixels": models["pixels"]}, frame, out=tmp_path / "out", store=store)


def test_patients_with_new_names_are_not_counted_as_unseen():
    """As --dicom-identity names them: whose names are keyed, of the model or of the cohort, makes no difference."""
    names, keyed = ["Ann", "Bob"], ["dicom-1-0123456789abcdef", "dicom-2-fedcba9876543210"]
    for of_model, of_cohort in ((names, keyed), (keyed, names), (keyed, ["dicom-1-0000000000000000"])):
        metadata = {"development": describe_development([b"1"], of_model)}
        (said,) = sentences_of_seen("it", metadata, [b"1"], of_cohort)
        assert said.startswith("it was made with 1 of these images (it cannot know these patients again")
        assert cannot_know_patients(metadata["development"], of_cohort)
        assert not sentences_of_seen("it", metadata, [b"2"], of_cohort)
    metadata = {"development": describe_development([b"1"], keyed)}
    (said,) = sentences_of_seen("it", metadata, [], keyed)  # of the same call of load_folder
    assert said == "it was made with 0 of these images and 2 of these patients"
    assert not cannot_know_patients(describe_development([], names), names)


def test_nobody_can_tell_of_patients_with_new_names(models, there, store, tmp_path):
    number = pd.factorize(there["patient"])[0]
    cohort = there.assign(patient=[f"dicom-{i}-{i:016x}" for i in number])
    with pytest.warns(UserWarning, match="nobody can tell whether pixels was made with images of these patients"):
        evaluate({"pixels": models["pixels"]}, cohort, out=tmp_path, store=store)


def test_labels_that_a_model_was_adapted_to_count_as_seen(models, there, store, tmp_path):
    adapted = adapt(models["pixels"], there, store=store)
    with pytest.raises(DataError, match=f"mine was adapted on {len(there)} of these images"):
        evaluate({"mine": adapted}, there, out=tmp_path, store=store)


def test_a_model_that_does_not_say_what_it_was_made_with(models, there, store, tmp_path):
    plain = CXRModel(models["pixels"].pipeline, 0.4)
    with pytest.warns(UserWarning, match="old does not say which images"):
        metrics = evaluate({"old": plain}, there, out=tmp_path, store=store)
    assert metrics["pipelines"]["old"]["threshold"]["value"] == 0.4
    assert metrics["pipelines"]["old"]["domain"] is None


def test_a_model_that_fails_leaves_the_others_alone(models, there, store, tmp_path):
    broken = models["pixels"].pipeline.__class__([*models["pixels"].pipeline.steps])
    broken.steps[1] = ("fails", FunctionTransformer(np.linalg.inv))
    both = {"broken": CXRModel(broken, 0.5, metadata=models["pixels"].metadata), "pixels": models["pixels"]}
    with pytest.warns(UserWarning, match="broken failed: LinAlgError"):
        metrics = evaluate(both, there, out=tmp_path, store=store)
    assert list(metrics["failed"]) == ["broken"]
    assert list(metrics["pipelines"]) == ["pixels"]
    assert "broken failed" in (tmp_path / "report.html").read_text()


def test_paths_of_models_and_their_names(run, models, there, store, tmp_path):
    _, out = run
    path = out / "models" / "shortcuts.skops"
    metrics = evaluate(path, there, out=tmp_path / "one", store=store)
    assert list(metrics["pipelines"]) == ["shortcuts"]
    with pytest.raises(InputError, match="two models are called 'shortcuts'"):
        evaluate([path, str(path)], there, out=tmp_path / "two", store=store)
    with pytest.raises(ModelError, match="trust"):
        evaluate(out / "models" / "pixels.joblib", there, out=tmp_path / "three", store=store)


@pytest.mark.parametrize("overwrite", [False, True])
def test_models_of_a_run_are_not_removed(run, models, there, store, overwrite):
    _, out = run
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(DataError, match="holds the models of a run"):
        evaluate(models, there, out=out, store=store, overwrite=overwrite)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_a_cohort_needs_no_train_split(judged):
    metrics, _ = judged
    assert not [sentence for sentence in metrics["run"]["warnings"] if "split" in sentence]
    assert any("development and cohort can be told apart" in sentence for sentence in metrics["run"]["warnings"])


def test_a_name_that_is_no_text_costs_no_model():
    facts = describe_development([b"1"], ["p\udcff", "q"])
    assert seen_before(facts, [b"2"], ["p\udcff"]) == (0, 1)


@pytest.mark.parametrize(("models", "message"), [([], "no models"), ({}, "no models"), (5, "models must be"),
                                                 ({"": CXRModel(None)}, "name of a model")])  # fmt: skip
def test_what_is_no_list_of_models(models, message, there, tmp_path):
    with pytest.raises(InputError, match=message):
        evaluate(models, there, out=tmp_path)


@pytest.mark.parametrize("column", ["image_stats", "image_digest"])
def test_columns_that_a_run_would_replace(column, there, tmp_path):
    with pytest.raises(DataError, match=f"column '{column}', .* rename it"):
        evaluate(CXRModel(pixels().fit(there["path"], there["target"])), there.assign(**{column: 1}), out=tmp_path)


def test_cohorts_that_measure_nothing(models, there, store, tmp_path):
    with pytest.raises(DataError, match="0 normal patients, too few"):
        evaluate(models, there[there["target"] == 1], out=tmp_path, store=store)
    with pytest.raises(DataError, match="in the val split"):
        evaluate(models, there.assign(split="test"), split="val", out=tmp_path, store=store)
    with pytest.raises(InputError, match="split='dev'"):
        evaluate(models, there, split="dev", out=tmp_path, store=store)


def test_a_folder_without_splits(models, there, store, tmp_path):
    folder = tmp_path / "cohort"
    for row in there.itertuples():
        target = folder / row.label.upper() / row.path.rpartition("/")[2]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(row.path, target)
    metrics = evaluate(models, load_folder(folder), out=tmp_path / "out", store=store)
    assert metrics["data"]["splits"]["test"]["images"] == len(there)


def test_damaged_facts(models, there, store, tmp_path):
    model = models["pixels"]
    damaged = CXRModel(model.pipeline, 0.5, metadata={"development": {"salt": "xyz"}})
    with pytest.raises(ModelError, match="keeps damaged facts"):
        evaluate({"m": damaged}, there, out=tmp_path, store=store)


def test_the_salt_differs_between_models(models):
    one, other = (model.metadata["development"] for model in models.values())
    assert one["salt"] != other["salt"]
    assert one["images"] != other["images"]


def test_adapted_models_say_so_in_the_report(models, there, store, tmp_path):
    half = there["patient"].isin(there["patient"].drop_duplicates().sample(frac=0.5, random_state=0))
    adapted = adapt(models["pixels"], there[half], prevalence=(0.4, 0.6), store=store)
    save_model(adapted, tmp_path / "adapted.joblib")
    again = load_model(tmp_path / "adapted.joblib", trusted=True, store=store)
    metrics = evaluate({"as made": models["pixels"], "adapted": again}, there[~half], out=tmp_path / "o", store=store)
    facts = metrics["pipelines"]
    assert facts["adapted"]["test"]["roc_auc"] == facts["as made"]["test"]["roc_auc"]
    assert facts["adapted"]["threshold"]["source"] == "adapted"
    for page in ("report.html", "model-card.md"):
        assert "without labels" in (tmp_path / "o" / page).read_text()
