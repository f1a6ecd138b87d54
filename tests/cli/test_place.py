"""evaluate and adapt, as they are typed."""

import json

import pytest
from typer.testing import CliRunner

from cxr_sklearn import load_model, save_model, train, write_radiographs
from cxr_sklearn.cli import app


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a model, and the images of another place: with and without class folders, and in a list."""
    folder = tmp_path_factory.mktemp("place")
    save_model(
        train(write_radiographs(folder / "here", 60, size=32, random_state=0), "shortcuts", store=None, cv=3),
        folder / "m.skops",
    )
    # Drawn so that the border alone ranks a little better than chance there: adapt refuses anything worse.
    there = write_radiographs(folder / "there", 40, size=32, style="B", random_state=8)
    (folder / "bare").mkdir()
    for path in there["path"]:
        (folder / "bare" / path.rpartition("/")[2]).hardlink_to(path)
    there[["path"]].to_csv(folder / "list.csv", index=False)
    return folder


@pytest.fixture
def type_(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*words):
        return CliRunner().invoke(app, [str(word) for word in words], terminal_width=200)

    return run


def test_evaluate(type_, place, tmp_path):
    done = type_("evaluate", place / "m.skops", place / "there", "--store", "none", "--out", "judged", "-q")
    assert done.exit_code == 0, done.output
    assert "judged/report.html" in done.output
    metrics = json.loads((tmp_path / "judged" / "metrics.json").read_text())
    assert metrics["pipelines"]["m"]["threshold"]["value"] == load_model(place / "m.skops").threshold


def test_images_of_the_training_are_refused(type_, place):
    done = type_("evaluate", place / "m.skops", place / "here", "--store", "none", "-q")
    assert done.exit_code == 1
    assert "of these images" in done.output
    assert "--split test" in done.output
    done = type_("evaluate", place / "m.skops", place / "here", "--split", "test", "--store", "none", "-q")
    assert done.exit_code == 0, done.output


def test_two_models_of_one_name(type_, place):
    done = type_("evaluate", place / "m.skops", place / "m.skops", place / "there", "--store", "none")
    assert done.exit_code == 1
    assert "two models are called 'm'" in done.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["there"], "labelled images"),
        (["bare", "--prevalence", ".3"], "without labels"),
        (["list.csv", "--prevalence", ".3"], "without labels"),
        (["there", "--prevalence", ".2:.4", "--calibrate", "intercept"], "0.2\N{EN DASH}0.4"),
        (["--prevalence", ".05"], "without any image"),
    ],
)
def test_adapt(type_, place, tmp_path, words, said):
    given = [place / word if (place / word).exists() else word for word in words]
    done = type_("adapt", place / "m.skops", *given, "--save", "new.skops", "--store", "none", "-q")
    assert done.exit_code == 0, done.output
    assert said in " ".join(done.output.split())
    assert len(load_model(tmp_path / "new.skops").metadata["adapted"]) == 1


def test_a_list_and_a_folder_lead_to_the_same_threshold(type_, place, tmp_path):
    for name in ("bare", "list.csv"):
        save = tmp_path / f"{name}.skops"
        done = type_("adapt", place / "m.skops", place / name, "--prevalence", ".3", "--save", save, "--store", "none")
        assert done.exit_code == 0, done.output
    folder, listed = (load_model(tmp_path / f"{name}.skops") for name in ("bare", "list.csv"))
    assert folder.threshold == listed.threshold
    assert folder.metadata["adapted"][0]["patients"] == listed.metadata["adapted"][0]["patients"]


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ([], 1, "nothing is known of the other place"),
        (["list.csv"], 1, "lacks the column 'label'"),
        (["none.csv", "--prevalence", ".2"], 1, "none.csv cannot be read"),
        (["--prevalence", "many"], 2, "neither a share nor two"),
        (["--prevalence", "2"], 1, "must be a share between 0 and 1"),
        (["--prevalence", ".2", "--save", "new.txt"], 1, "must end in .skops or .joblib"),
    ],
)
def test_adapt_that_cannot_be(type_, place, words, status, said):
    save = [] if "--save" in words else ["--save", "new.skops"]
    words = [place / word if word == "list.csv" else word for word in words]
    done = type_("adapt", place / "m.skops", *words, *save, "--store", "none", "-q")
    assert done.exit_code == status
    assert said in " ".join(done.output.split())


def test_a_model_does_not_replace_itself(type_, place):
    before = (place / "m.skops").read_bytes()
    done = type_("adapt", place / "m.skops", "--prevalence", ".2", "--save", place / "m.skops", "--store", "none")
    assert done.exit_code == 1
    assert (place / "m.skops").read_bytes() == before
