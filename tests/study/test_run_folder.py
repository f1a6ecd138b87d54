import json
import subprocess
import sys

import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline

from cxr_sklearn import ShortcutFeatures, compare, learning_curve
from cxr_sklearn.exceptions import DataError
from cxr_sklearn.study.run_folder import claim, owned, read_metrics, remove_results, write_results


def test_invalid_metrics(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read_metrics(tmp_path)
    texts = {"{": "is not metrics", "[]": "lacks", '{"pipelines": {}, "data": {}, "run": 1}': "is not metrics",
             '{"pipelines": {}, "data": {}, "run": {}}': r"lacks \['lang', 'threshold'\]"}  # fmt: skip
    for text, message in texts.items():
        (tmp_path / "metrics.json").write_text(text)
        with pytest.raises(DataError, match=message):
            read_metrics(tmp_path)
    whole = {"pipelines": {}, "data": {}, "run": {"threshold": "youden", "lang": "en"}}
    (tmp_path / "metrics.json").write_text(json.dumps(whole))
    assert read_metrics(tmp_path) == whole


def result(folder):
    """The files of a folder, with their content."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def quick(embedded_frame, out, **options):
    frame, store = embedded_frame
    return compare(frame, ["shortcuts"], out=out, store=store, cv=2, **options)


@pytest.mark.parametrize(
    "name", ["metrics.json", "scores.csv", "probes.csv", "learning_curve.csv", "models/shortcuts.skops"]
)
def test_files_that_no_run_wrote_are_refused_before_any_work(embedded_frame, tmp_path, monkeypatch, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    monkeypatch.setattr("cxr_sklearn.study.compare.check_images", None)
    with pytest.raises(DataError, match=f"no run wrote, or that were changed since: {name}; choose another folder"):
        quick(embedded_frame, tmp_path)
    assert result(tmp_path) == {name: b"mine"}


def test_files_that_no_run_wrote_are_replaced_on_request(embedded_frame, tmp_path):
    for name in ("probes.csv", "learning_curve.csv", "mine.csv", "models/mine.skops"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    quick(embedded_frame, tmp_path, overwrite=True)
    there = result(tmp_path)
    assert there["mine.csv"] == there["models/mine.skops"] == b"mine"
    assert not {"probes.csv", "learning_curve.csv"} & set(there)
    quick(embedded_frame, tmp_path)  # by now they are a run's own


def test_a_second_run_leaves_nothing_of_the_first(embedded_frame, tmp_path):
    frame, store = embedded_frame
    quick(embedded_frame, tmp_path, sanity=True)
    model = Pipeline([("measure", ShortcutFeatures(store=store)), ("classify", LogisticRegression())])
    compare(frame, {"mine": model}, out=tmp_path, store=store, cv=2)
    assert "models/mine.skops" in result(tmp_path)
    assert "probes.csv" not in result(tmp_path)
    quick(embedded_frame, tmp_path)
    assert "models/mine.skops" not in result(tmp_path)
    listed = json.loads((tmp_path / "run-files.json").read_text())["files"]
    assert {*listed, "run-files.json"} == set(result(tmp_path))


def test_a_file_of_a_run_that_was_changed_by_hand_is_refused(embedded_frame, tmp_path):
    quick(embedded_frame, tmp_path)
    model = tmp_path / "models" / "shortcuts.skops"
    model.write_bytes(b"another model")
    with pytest.raises(DataError, match=r"models/shortcuts\.skops"):
        quick(embedded_frame, tmp_path)
    assert model.read_bytes() == b"another model"


def test_reports_that_are_rendered_again_stay_the_runs_own(embedded_frame, tmp_path):
    quick(embedded_frame, tmp_path)
    write_results(tmp_path, lang="es", threshold=0.3)
    quick(embedded_frame, tmp_path)


@pytest.mark.parametrize("name", ["report.html", "model-card.md", "metrics.json"])
def test_a_report_that_was_changed_by_hand_is_not_rendered_over(embedded_frame, tmp_path, name):
    quick(embedded_frame, tmp_path)
    changed = (tmp_path / name).read_text() + "\n"
    (tmp_path / name).write_text(changed)
    with pytest.raises(DataError, match=f"changed since: {name}"):
        write_results(tmp_path, lang="es")
    assert (tmp_path / name).read_text() == changed
    write_results(tmp_path, lang="es", overwrite=True)
    assert (tmp_path / name).read_text() != changed
    write_results(tmp_path, lang="en")  # by now it is the run's own


def test_after_a_failure_a_file_of_a_results_name_is_nobodys(tmp_path):
    def fails():
        with owned(tmp_path, "scores.csv"):
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        fails()
    (tmp_path / "scores.csv").write_text("mine")
    with pytest.raises(DataError, match=r"scores\.csv"):
        claim(tmp_path, ["scores.csv"])


def test_what_a_killed_run_was_writing_is_its_own(tmp_path):
    program = (
        "import os, pathlib, sys\nfrom cxr_sklearn.study.run_folder import owned\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "with owned(folder, 'scores.csv'):\n"
        "    (folder / 'scores.csv').write_text('half')\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", program, tmp_path], check=False).returncode == -9
    claim(tmp_path, ["scores.csv"])


@pytest.mark.parametrize("name", ["../mine.csv", "/mine.csv"])
def test_a_list_never_leads_out_of_its_folder(tmp_path, name):
    folder = tmp_path / "run"
    folder.mkdir()
    mine = tmp_path / "mine.csv"
    mine.write_text("mine")
    name = str(mine) if name.startswith("/") else name
    (folder / "run-files.json").write_text(json.dumps({"files": {name: None}, "program": "cxr_sklearn"}))
    remove_results(folder, [])
    assert mine.is_file()


@pytest.mark.parametrize("text", ["", "[]", '{"files": 3}', '{"files": null}'])
def test_a_damaged_list_makes_every_file_foreign(tmp_path, text):
    (tmp_path / "run-files.json").write_text(text)
    (tmp_path / "scores.csv").write_text("mine")
    with pytest.raises(DataError, match=r"scores\.csv"):
        claim(tmp_path, ["scores.csv"])


def test_a_list_of_another_program_is_neither_followed_nor_replaced(embedded_frame, tmp_path):
    list_of_others = json.dumps({"files": {"thesis.txt": None}})
    (tmp_path / "run-files.json").write_text(list_of_others)
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match=r"no run wrote, or that were changed since: run-files\.json; choose"):
        quick(embedded_frame, tmp_path)
    assert result(tmp_path) == {"run-files.json": list_of_others.encode(), "thesis.txt": b"mine"}
    quick(embedded_frame, tmp_path, overwrite=True)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["scores.csv", "run-files.json"])
def test_a_folder_is_never_replaced(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(DataError, match=f"folders that are called as files of a run: {name}; move them"):
        claim(tmp_path, ["scores.csv"], overwrite=True)


def test_a_link_or_folder_of_a_results_name_is_refused(tmp_path):
    (tmp_path / "scores.csv").mkdir()
    (tmp_path / "images.csv").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"images\.csv, scores\.csv"):
        claim(tmp_path, ["images.csv", "scores.csv"])


def test_a_learning_curve_of_somebody_elses_is_refused(embedded_frame, tmp_path):
    (tmp_path / "learning_curve.csv").write_text("mine")
    frame, store = embedded_frame
    with pytest.raises(DataError, match="no run wrote"):
        learning_curve(frame, ["shortcuts"], out=tmp_path, store=store)
    assert (tmp_path / "learning_curve.csv").read_text() == "mine"
