import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from typer.testing import CliRunner

from cxr_sklearn import ImageLoader, load_folder, load_model, save_model, write_radiographs
from cxr_sklearn.cli import app
from cxr_sklearn.datasets import shift

from ..conftest import ROOT, write_image
from ..images.test_decoding import write_png_header


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def fails(*arguments):
    """Return the one line that the command must write to stderr."""
    done = call(*arguments)
    assert done.exit_code == 1, done.output
    return only_line(done.stderr)


def only_line(stderr):
    lines = stderr.strip().splitlines()
    assert len(lines) == 1, stderr
    return lines[0]


def folder_of(root, n=6):
    for split in ("train", "test"):
        for i in range(n):
            seed = 1000 * len(split) + i
            write_image(root / split / "NORMAL" / f"IM-{i}{len(split)}-0001.png", seed=seed)
            write_image(root / split / "PNEUMONIA" / f"person{i}{len(split)}_virus_1.png", seed=100 + seed)
    return root


def test_synth(tmp_path):
    done = call("synth", tmp_path / "images", "--patients", 12, "--size", 32, "--seed", 1)
    assert done.exit_code == 0
    frame = load_folder(tmp_path / "images")
    assert done.output.startswith(f"{len(frame)} radiographs of 12 patients")
    assert set(frame["split"]) == {"train", "val", "test"}
    assert "holds files already" in fails("synth", tmp_path / "images", "--patients", 12)


def test_synth_draws_another_hospital_with_another_prevalence(tmp_path):
    options = ("--patients", 20, "--size", 32, "--seed", 1)
    assert call("synth", tmp_path / "a", *options).exit_code == 0
    assert call("synth", tmp_path / "b", *options, "--style", "B", "--prevalence", 0.2).exit_code == 0
    here, there = (load_folder(tmp_path / name) for name in "ab")
    assert not set(here["patient"]) & set(there["patient"])
    assert there.drop_duplicates("patient")["target"].sum() == 4
    assert "leaves 2 in one class" in fails("synth", tmp_path / "c", *options, "--prevalence", 0.1)
    for outside in (0, 1, 1.5):
        assert "above 0 and below 1" in fails("synth", tmp_path / "c", *options, "--prevalence", outside)
    said = " ".join(call("synth", "--help").output.replace("\u2502", " ").split())
    assert "above 0 and below 1" in said
    assert "x<=1" not in said


def test_compare_and_report(embedded_frame, tmp_path):
    frame, store = embedded_frame
    folder = Path(os.path.commonpath(frame["path"].tolist()))
    out = tmp_path / "run"
    options = ["--weights", "random", "--store", store, "--folds", 3, "--pipeline", "vgg16_logistic"]
    done = call("compare", folder, *options, "--pipeline", "shortcuts", "--out", out)
    assert done.exit_code == 0, done.output
    assert "vgg16_logistic (random weights)" in " ".join(done.output.split())
    assert f"Report: {out / 'report.html'}" in done.output
    metrics = json.loads((out / "metrics.json").read_text())
    html = (out / "report.html").read_text()
    (out / "report.html").unlink()
    assert call("report", out).exit_code == 0
    assert (out / "report.html").read_text() == html
    assert json.loads((out / "metrics.json").read_text()) == metrics


@pytest.mark.filterwarnings("default:the model is kept as")
def test_compare_with_changed_images(embedded_frame, tmp_path):
    frame, store = embedded_frame
    folder = Path(os.path.commonpath(frame["path"].tolist()))
    recipe, out = ROOT / "tests" / "row_means.py", tmp_path / "run"
    options = ["--store", store, "--folds", 3, "--pipeline", recipe, "--stress", "--out", out]
    done = call("compare", folder, *options)
    assert done.exit_code == 0, done.output
    stress = json.loads((out / "metrics.json").read_text())["pipelines"]["row_means"]["stress"]
    worst = min(stress["changes"], key=lambda name: stress["changes"][name]["roc_auc"])
    low, high = stress["mean"]["ci95"]
    aucs = f"{stress['clean']['roc_auc']:.3f} {stress['mean']['roc_auc']:.3f} {low:.3f} to {high:.3f}"
    again = call("report", out)
    for output in (done.output, again.output):
        table = " ".join(output.partition("as they are and changed:")[2].split())
        assert f"row_means {aucs} {stress['changes'][worst]['roc_auc']:.3f} ({worst})" in table
        assert "shortcuts" not in table


def test_report_with_another_rule_and_in_spanish(embedded_frame, tmp_path):
    frame, store = embedded_frame
    folder = Path(os.path.commonpath(frame["path"].tolist()))
    assert call("compare", folder, "--store", store, "--folds", 3, "--pipeline", "shortcuts", "--out", tmp_path,
                "--calibrate", "sigmoid", "--threshold", "cost=5:1").exit_code == 0  # fmt: skip
    before = json.loads((tmp_path / "metrics.json").read_text())
    assert before["pipelines"]["shortcuts"]["threshold"]["rule"] == "cost=5.0"
    assert before["pipelines"]["shortcuts"]["calibrated"] == "sigmoid"
    assert call("report", tmp_path, "--threshold", "0.5", "--lang", "es").exit_code == 0
    after = json.loads((tmp_path / "metrics.json").read_text())
    assert after["pipelines"]["shortcuts"]["threshold"]["value"] == 0.5
    assert after["pipelines"]["shortcuts"]["test"] != before["pipelines"]["shortcuts"]["test"]
    page = (tmp_path / "report.html").read_text()
    assert "fijado a mano" in page
    assert "una sigmoide (Platt)" in page
    assert call("report", tmp_path).exit_code == 0
    assert json.loads((tmp_path / "metrics.json").read_text()) == after  # the rule and the language are kept
    assert "segunda mirada" in (tmp_path / "report.html").read_text()
    assert call("report", tmp_path, "--threshold", "cost=5:1", "--lang", "en").exit_code == 0
    assert json.loads((tmp_path / "metrics.json").read_text()) == before
    assert "second look" not in (tmp_path / "report.html").read_text()
    wrong = call("report", tmp_path, "--threshold", "best")
    assert (wrong.exit_code, "must be youden" in wrong.output) == (1, True)


def test_a_perfect_classifier_has_no_interval(tmp_path):
    for i in range(80):
        split = "test" if i % 4 == 0 else "train"
        label, grey = (("NORMAL", 40), ("PNEUMONIA", 200))[i // 4 % 2]
        folder = tmp_path / "images" / split / label
        folder.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(i).integers(-9, 10, (32, 32))
        Image.fromarray((grey + noise).astype(np.uint8)).save(folder / f"{i}.png")
    options = ["--pipeline", "shortcuts", "--store", tmp_path / "store", "--out", tmp_path / "run"]
    for done in (call("compare", tmp_path / "images", *options), call("report", tmp_path / "run")):
        assert done.exit_code == 0, done.output
        assert "1.000 none" in " ".join(done.output.split())
    assert "no interval" in (tmp_path / "run" / "report.html").read_text()


def test_learning_curve_goes_into_the_report(embedded_frame, tmp_path):
    frame, store = embedded_frame
    folder = Path(os.path.commonpath(frame["path"].tolist()))
    options = ["--store", store, "--pipeline", "shortcuts", "--out", tmp_path]
    alone = call("learning-curve", folder, *options, "--repeats", 1)
    assert alone.exit_code == 0, alone.output
    assert "learning_curve.csv" in alone.output
    assert call("compare", folder, *options, "--folds", 3).exit_code == 0
    assert "3 draws" not in (tmp_path / "report.html").read_text()
    done = call("learning-curve", folder, *options, "--repeats", 3)
    assert "Report:" in done.output
    assert "The band spans 3 draws" in (tmp_path / "report.html").read_text()
    other = pd.read_csv(tmp_path / "learning_curve.csv").assign(images=9999)
    other.to_csv(tmp_path / "learning_curve.csv", index=False)
    assert call("report", tmp_path).exit_code == 0
    assert "How much data it takes" not in (tmp_path / "report.html").read_text()  # a curve of other images


class TestCheck:
    def test_a_clean_folder(self, tmp_path):
        done = call("check", folder_of(tmp_path))
        assert done.exit_code == 0, done.output
        said = " ".join(done.output.split())
        assert "24 images of 24 patients" in said
        assert "train normal 6 6 train pneumonia virus 6 6 test normal 6 6 test pneumonia virus 6 6" in said
        assert "Warning: there is no val split" in said
        assert "Too few patients to tell whether these are drawn alike: normal train and test, pneumonia train" in said
        assert said.endswith("No leaks, and every file can be read.")

    def test_leaks_and_unreadable_files(self, tmp_path):
        folder = folder_of(tmp_path / "set[/b]")
        shutil.copy(folder / "train/NORMAL/IM-05-0001.png", folder / "test/NORMAL/IM-99-0001.png")
        (folder / "train/NORMAL/IM-98-0001.png").write_text("no image")
        done = call("check", folder)
        assert done.exit_code == 1
        unreadable, leak, *_, verdict = (line for line in done.output.splitlines()
                                         if line.startswith(("Unread", "Leak", "Not fit")))  # fmt: skip
        assert unreadable.startswith(f"Unreadable: {folder}/train/NORMAL/IM-98-0001.png: not a JPEG")
        assert leak.startswith("Leak: 1 group of identical files across splits: test/NORMAL/IM-99-0001.png = ")
        assert verdict == "Not fit for use as it is."

    def test_json(self, tmp_path):
        folder = folder_of(tmp_path)
        shutil.copy(folder / "train/NORMAL/IM-05-0001.png", folder / "test/NORMAL/IM-99-0001.png")
        done = call("check", folder, "--json")
        assert done.exit_code == 1
        found = json.loads(done.stdout)
        assert found["identical"][0]["splits"] == ["train", "test"]
        assert len(found["leaks"]) == 1

    def test_which_split_is_it(self, tmp_path, monkeypatch):
        monkeypatch.setattr(shift, "MIN_PATIENTS", 6)
        said = " ".join(call("check", folder_of(tmp_path)).output.split())
        assert "Which split is it? label by patients AUC 95 % interval" in said
        assert "train or test normal size 6 and 6 0.50 0.50 to 0.50" in said
        assert "train or test pneumonia grey levels 6 and 6" in said
        assert "Too few" not in said

    def test_a_table_of_images(self, tmp_path):
        folder_of(tmp_path)
        (tmp_path / "labels.csv").write_text("path,label\ntrain/NORMAL/IM-05-0001.png,normal\n")
        done = call("check", tmp_path / "labels.csv")
        assert "1 image of 1 patient" in done.output
        (tmp_path / "labels.csv").write_text("path\n")
        assert "lacks the column 'label'" in fails("check", tmp_path / "labels.csv")


def test_subset(tmp_path):
    folder = folder_of(tmp_path / "set")
    options = ["--train", 2, "--val", 2, "--test", 3]
    done = call("subset", folder, tmp_path / "a", *options)
    assert done.exit_code == 0, done.output
    assert done.output.startswith("14 images of 14 patients in ")
    assert f"(hard links), listed with their patients in {tmp_path / 'a' / 'manifest.csv'}" in done.output
    assert call("subset", folder, tmp_path / "b", *options).exit_code == 0
    assert (tmp_path / "a/manifest.csv").read_bytes() == (tmp_path / "b/manifest.csv").read_bytes()
    assert call("subset", folder, tmp_path / "b", *options, "--seed", 1).exit_code == 0
    assert (tmp_path / "a/manifest.csv").read_bytes() != (tmp_path / "b/manifest.csv").read_bytes()
    assert "240 normal images" in fails("subset", folder, tmp_path / "c")
    assert "lies inside" in fails("subset", folder, folder / "sub", *options)
    assert call("check", tmp_path / "a" / "manifest.csv").exit_code == 0


def test_subset_tells_of_unknown_patients(tmp_path):
    frame = write_radiographs(tmp_path / "set", 20, size=32, random_state=0)
    for number, path in enumerate(map(Path, frame["path"])):
        path.rename(path.with_name(f"scan {number}.jpeg"))
    done = call("subset", tmp_path / "set", tmp_path / "out", "--train", 2, "--val", 1, "--test", 1)
    assert "8 images of unknown patients" in done.stderr


@pytest.mark.parametrize("layout", ["kaggle", "lower case", "no splits", "no val"])
def test_subset_of_every_layout(tmp_path, layout):
    for i in range(12):
        split = "test" if i > 7 else "train"
        for label, name in (("NORMAL", f"IM-{i:04d}-0001.png"), ("PNEUMONIA", f"person{i}_virus_{i}.png")):
            place = {
                "kaggle": f"chest_xray/{split}/{label}",
                "lower case": f"{split}/{label.lower()}",
                "no splits": label.lower(),
                "no val": f"{split}/{label}",
            }[layout]
            write_image(tmp_path / "set" / place / name, seed=2 * i + (label == "NORMAL"))
            if layout == "kaggle":
                write_image(tmp_path / "set" / "chest_xray" / place / name, seed=2 * i + (label == "NORMAL"))
                write_image(tmp_path / "set" / f"chest_xray/val/{label}" / name.replace("0", "9"), seed=99)
    for name in ("a", "b"):
        done = call("subset", tmp_path / "set", tmp_path / name, "--train", 4, "--val", 2, "--test", 3)
        assert done.exit_code == 0, done.output
    manifest = (tmp_path / "a/manifest.csv").read_bytes()
    assert manifest == (tmp_path / "b/manifest.csv").read_bytes()
    frame = load_folder(tmp_path / "a")
    assert frame.groupby(["split", "label"]).size().tolist() == [3, 3, 4, 4, 2, 2]
    assert frame["patient"].is_unique


def test_compare_refuses_leaks(tmp_path):
    folder = folder_of(tmp_path / "set")
    shutil.copy(folder / "train/NORMAL/IM-05-0001.png", folder / "test/NORMAL/IM-99-0001.png")
    options = ["--pipeline", "shortcuts", "--folds", 3, "--out", tmp_path / "run"]
    line = fails("compare", folder, *options)
    assert "1 group of identical files across splits: test/NORMAL/IM-99-0001.png = train/NORMAL/IM-05-0001.png" in line
    assert "--allow-leaks" in line
    done = call("compare", folder, *options, "--allow-leaks")
    assert done.exit_code == 0, done.output
    assert "Warning: there is no val split" in done.output
    assert "Leak: " in done.output


def test_compare_divides_the_report_by_columns_of_the_table(tmp_path):
    paths = sorted(path.relative_to(tmp_path) for path in folder_of(tmp_path / "set").rglob("*.png"))
    rows = [f"{path},{path.parts[2]},{path.parts[1]},{'MF'[i % 2]},{i % 3},{i}" for i, path in enumerate(paths)]
    (tmp_path / "labels.csv").write_text("\n".join(["path,label,split,Sex,Site,age", *rows]))
    options = ["compare", tmp_path / "labels.csv", "--pipeline", "shortcuts", "--folds", 3, "--out", tmp_path / "run"]
    line = fails(*options, "--by", "sex,siet")
    assert "there is no column 'siet' to divide by; the table has 'subtype', 'width', 'height', 'mode', 'sex'" in line
    assert not (tmp_path / "run").exists()
    done = call(*options, "--by", "Sex, age", "--by", "site")
    assert done.exit_code == 0, done.output
    divided = json.loads((tmp_path / "run" / "metrics.json").read_text())["pipelines"]["shortcuts"]["by"]
    assert {name: len(division["groups"]) for name, division in divided.items()} == {"sex": 2, "age": 3, "site": 3}


def test_help_names_every_command():
    done = call("--help")
    assert done.exit_code == 0
    names = [command.name or command.callback.__name__.replace("_", "-") for command in app.registered_commands]
    assert {"fetch", "check", "train", "learning-curve"} <= set(names)
    assert all(f" {name} " in done.output for name in names)


@pytest.mark.parametrize(
    "arguments",
    [
        ["compare", "--nonsense"],
        ["compare", "--balance", "much"],
        ["compare", "--seed", -1],
        ["synth"],
        ["nonsense"],
        ["synth", "x", "--patients", 1],
        ["synth", "x", "--seed", -1],
        ["synth", "x", "--style", "C"],
    ],
)
def test_wrong_usage(arguments):
    assert call(*arguments).exit_code == 2


def test_brackets_in_a_path_are_not_markup(tmp_path):
    done = call("synth", tmp_path / "s[/b]", "--patients", 10, "--size", 32)
    assert done.exit_code == 0
    assert "s[/b]" in done.output


def test_what_lies_in_the_output_folder_stays(tmp_path):
    (tmp_path / "synthetic").mkdir()
    (tmp_path / "synthetic" / "precious").write_text("mine")
    assert call("compare", "--pipeline", "shortcuts", "--out", tmp_path, "--weights", "random").exit_code == 0
    assert (tmp_path / "synthetic" / "precious").exists()


class TestBadInput:
    """Each gives one clear line and exit status 1."""

    def test_a_missing_folder(self, tmp_path):
        assert "does not exist" in fails("compare", tmp_path / "absent")
        assert "No such file" in fails("check", tmp_path / "absent.csv")

    def test_an_empty_folder(self, tmp_path):
        assert "holds no images in class folders" in fails("compare", tmp_path)

    @pytest.mark.parametrize("kind", ["text", "truncated", "bomb"])
    def test_an_unreadable_file(self, tmp_path, kind):
        folder = folder_of(tmp_path / "images")
        bad = folder / "train" / "NORMAL" / "IM-9999-0001.jpeg"
        if kind == "text":
            bad.write_text("not an image")
        elif kind == "truncated":
            whole = write_image(folder / "train" / "NORMAL" / "IM-9998-0001.png", seed=7, size=(90, 90))
            bad.write_bytes(Path(whole).read_bytes()[:3000])
        else:
            write_png_header(bad, 60_000)
        out = tmp_path / "run"
        line = fails("compare", folder, "--pipeline", "shortcuts", "--out", out, "--folds", 3)
        assert "1 of " in line
        assert "IM-9999-0001.jpeg" in line
        bad.unlink()
        assert call("compare", folder, "--pipeline", "shortcuts", "--out", out, "--folds", 3).exit_code == 0

    def test_a_store_that_cannot_be_made(self, tmp_path):
        (tmp_path / "file").write_text("")
        folder = folder_of(tmp_path / "images")
        line = fails("compare", folder, "--pipeline", "shortcuts", "--store", tmp_path / "file" / "store", "--folds", 3)
        assert "cannot use the feature store" in line

    def test_a_folder_that_is_not_a_run(self, tmp_path):
        assert "metrics.json does not exist" in fails("report", tmp_path)
        (tmp_path / "metrics.json").write_text('{"pipelines"')
        assert "metrics.json is not metrics" in fails("report", tmp_path)

    @pytest.mark.keras
    def test_a_file_that_holds_no_weights(self, tmp_path):
        """In a process of its own, where output of the backend would be seen."""
        (tmp_path / "text.h5").write_text("no weights at all")
        options = ["--weights", tmp_path / "text.h5", "--pipeline", "vgg16_logistic", "--folds", "3"]
        command = [sys.executable, "-m", "cxr_sklearn.cli", "compare", folder_of(tmp_path / "images"), *options]
        quiet = "TF_CPP_MIN_LOG_LEVEL"  # set in the environment by an earlier import of Keras
        environment = {name: value for name, value in os.environ.items() if name != quiet}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert "text.h5 does not hold the weights of VGG16" in only_line(done.stderr)

    def test_a_warning_is_one_line_without_a_place_in_the_program(self, tmp_path):
        (tmp_path / "own.py").write_text(
            "from sklearn.linear_model import LogisticRegression\nfrom sklearn.pipeline import make_pipeline\n"
            "from cxr_sklearn import ShortcutFeatures\n\nclass Own(LogisticRegression):\n    pass\n\n"
            "def build(store):\n    return make_pipeline(ShortcutFeatures(store=store), Own())\n"
        )
        options = ["--pipeline", tmp_path / "own.py", "--folds", "3", "--out", tmp_path / "run"]
        command = [sys.executable, "-m", "cxr_sklearn.cli", "compare", folder_of(tmp_path / "images", 12), *options]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert only_line(done.stderr).startswith("Warning: the model of own is not kept: ")

    def test_weights_that_are_not_there(self, tmp_path):
        folder = folder_of(tmp_path / "images")
        line = fails(
            "compare", folder, "--weights", tmp_path / "absent.h5", "--pipeline", "vgg16_logistic", "--folds", 3
        )
        assert "absent.h5" in line
        assert "nor a file" in line


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Folder of radiographs and of a model trained on them."""
    folder = tmp_path_factory.mktemp("train")
    frame = write_radiographs(folder / "set", 40, size=64, random_state=0)
    done = call("train", folder / "set", "--pipeline", "shortcuts", "--save", folder / "model.skops", "--folds", 3,
                "--calibrate", "sigmoid", "--store", folder / "store", "--threshold", "sensitivity=.9")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "Cross-validated AUC 0." in done.output
    return folder, frame


class TestTrainAndPredict:
    def test_without_a_store(self, kept, tmp_path, monkeypatch):
        folder, frame = kept
        monkeypatch.setenv("CXR_SKLEARN_CACHE", str(tmp_path / "cache"))
        model = tmp_path / "off.skops"
        for command in (
            ["check", folder / "set"],
            ["train", folder / "set", "--pipeline", "shortcuts", "--save", model, "--folds", 3],
            ["predict", model, frame["path"][0]],
            ["explain", model, frame["path"][0], "-o", tmp_path / "heat.png"],
        ):
            done = call(*command, "--store", "none")
            assert done.exception is None or "no ImageLoader" in done.output, done.output
        assert call("predict", model, frame["path"][0]).exit_code == 0  # as it was trained
        assert not (tmp_path / "cache").exists()
        assert not Path("none").exists()

    def test_what_the_model_says_of_itself(self, kept):
        folder, frame = kept
        manifest = load_model(folder / "model.skops").metadata
        assert manifest["recipe"] == "shortcuts"
        assert manifest["threshold_source"] == "out-of-fold"
        assert manifest["data"]["train"]["images"] == (frame["split"] == "train").sum()
        assert manifest["metrics"]["out_of_fold"]["recall"] >= 0.9

    def test_a_table(self, kept):
        folder, frame = kept
        path = frame["path"].iloc[0]
        done = call("predict", folder / "model.skops", path, "--store", folder / "store")
        assert done.exit_code == 0, done.output
        assert Path(path).name in "".join(done.output.split())
        assert "path score decision threshold domain" in " ".join(done.output.split())

    def test_csv_and_json_and_stdin(self, kept):
        folder, frame = kept
        model = load_model(folder / "model.skops", store=folder / "store")
        options = ["--store", folder / "store"]
        by_folder = call("predict", folder / "model.skops", folder / "set" / "test", "--csv", *options)
        table = pd.read_csv(io.StringIO(by_folder.stdout))
        test = frame[frame["split"] == "test"].sort_values("path")
        assert table["path"].tolist() == test["path"].tolist()
        np.testing.assert_allclose(table["score"], model.predict_proba(test["path"])[:, 1])
        threshold = load_model(folder / "model.skops").metadata["threshold"]
        assert (table["decision"] == np.where(table["score"] >= threshold, "pneumonia", "normal")).all()
        assert table["threshold"].round(9).unique().tolist() == [round(threshold, 9)]
        done = CliRunner().invoke(
            app, ["predict", str(folder / "model.skops"), "-", "--json", "--store", str(folder / "store")],
            input="\n".join(test["path"]) + "\n\n",
        )  # fmt: skip
        rows = json.loads(done.stdout)
        assert [row["path"] for row in rows] == test["path"].tolist()
        assert [row["score"] for row in rows] == model.predict_proba(test["path"])[:, 1].tolist()
        assert rows[0]["error"] is None
        assert set(rows[0]) == {"path", "score", "decision", "threshold", "domain", "error"}

    def test_names_that_are_not_text(self, kept, tmp_path):
        folder, frame = kept
        steering, latin = os.fsencode(tmp_path) + b"/\x1b[31mred.png", os.fsencode(tmp_path) + b"/M\xfcller.png"
        for name in (steering, latin):
            shutil.copy(os.fsencode(frame["path"][0]), name)
        options = [str(folder / "model.skops"), "-", "--store", str(folder / "store")]
        given = b"\xef\xbb\xbf" + steering + b"\r\n" + latin + b"\n"
        as_csv = CliRunner().invoke(app, ["predict", *options, "--csv"], input=given)
        assert as_csv.exit_code == 0, as_csv.output
        assert [line.split(b",")[0] for line in as_csv.stdout_bytes.splitlines()[1:]] == [steering, latin]
        as_json = CliRunner().invoke(app, ["predict", *options, "--json"], input=given)
        assert [os.fsencode(row["path"]) for row in json.loads(as_json.stdout)] == [steering, latin]
        shown = CliRunner().invoke(app, ["predict", *options], input=given)
        assert shown.exit_code == 0, shown.output
        assert "\x1b" not in shown.stdout

    def test_a_full_disk(self, kept):
        folder, frame = kept
        command = [sys.executable, "-m", "cxr_sklearn.cli", "predict", folder / "model.skops", frame["path"][0],
                   "--csv", "--store", folder / "store"]  # fmt: skip
        with open("/dev/full", "w") as full:  # noqa: PTH123
            done = subprocess.run([str(part) for part in command], stdout=full, stderr=subprocess.PIPE, text=True)
        assert done.returncode == 1
        assert "No space left on device" in done.stderr
        assert "Traceback" not in done.stderr

    def test_unreadable_and_odd_images(self, kept, tmp_path):
        folder, frame = kept
        (tmp_path / "text.png").write_text("no image")
        Image.new("L", (64, 64), 80).save(tmp_path / "blank.png")
        trained_on = frame["path"][frame["split"] == "train"].iloc[5]
        places = [tmp_path / "text.png", trained_on, tmp_path / "blank.png"]
        done = call("predict", folder / "model.skops", *places, "--csv", "--store", folder / "store")
        assert done.exit_code == 1
        table = pd.read_csv(io.StringIO(done.stdout))
        assert table["score"].isna().tolist() == table["decision"].isna().tolist() == [True, False, False]
        assert "not a JPEG" in table["error"][0]
        assert table["domain"].tolist()[1:] == ["in", "out"]
        shown = call("predict", folder / "model.skops", *places, "--store", folder / "store")
        assert f"No score: {tmp_path / 'text.png'}: not a JPEG" in shown.output
        assert "their scores mean nothing" in shown.output

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["predict", "{tmp}/other.skops", "{set}"], "is not a model"),
            (["predict", "{tmp}/absent.skops", "{set}"], "No such file"),
            (["predict", "{model}", "{tmp}"], "holds no image files"),
            (["predict", "{model}", "{set}", "--csv", "--json"], "choose one of"),
            (["train", "{set}", "--pipeline", "shortcuts", "--save", "{tmp}/m.pkl"], "must end in"),
            (["train", "{set}", "--pipeline", "shortcuts", "--save", "{tmp}/other.skops/m.skops"], "other.skops"),
            (["train", "{set}", "--pipeline", "none", "--save", "{tmp}/m.skops"], "no recipe"),
            (["train", "{set}", "--pipeline", "shortcuts", "--save", "{tmp}/other.skops"], "is not a model that cxr"),
            (["adapt", "{model}", "--prevalence", ".1", "--save", "{tmp}/other.skops"], "is not a model that cxr_sk"),
            (["adapt", "{model}", "--prevalence", ".1", "--save", "{model}"], "would be overwritten"),
            (["adapt", "{model}", "--prevalence", ".1", "--save", "{tmp}/folder.skops"], "is a folder"),
            (["export", "{model}", "-o", "{tmp}/other.onnx"], "is not a model that cxr_sklearn wrote"),
        ],
    )
    def test_what_is_refused(self, kept, tmp_path, arguments, message):
        files = [tmp_path / "other.skops", tmp_path / "other.onnx"]
        for file in files:
            file.write_bytes(b"PK no model")
        (tmp_path / "folder.skops").mkdir()
        places = {"tmp": tmp_path, "set": kept[0] / "set", "model": kept[0] / "model.skops"}
        assert message in fails(*(argument.format(**places) for argument in arguments))
        assert [file.read_bytes() for file in files] == [b"PK no model"] * 2

    def test_an_earlier_model_is_replaced(self, kept, tmp_path):
        (tmp_path / "ours.skops").touch()  # as mktemp does
        for prevalence in (".1", ".3"):
            done = call("adapt", kept[0] / "model.skops", "--prevalence", prevalence, "--save", tmp_path / "ours.skops")
            assert done.exit_code == 0, done.output
            assert load_model(tmp_path / "ours.skops").metadata["adapted"][-1]["prevalence"] == [float(prevalence)]

    def test_a_joblib_model_needs_trust(self, kept, tmp_path):
        folder, _ = kept
        save_model(load_model(folder / "model.skops"), tmp_path / "model.joblib")
        options = ["predict", tmp_path / "model.joblib", folder / "set", "--store", folder / "store"]
        assert "--trust" in fails(*options)
        assert call(*options, "--trust").exit_code == 0

    def test_a_picture_of_what_raised_the_score(self, kept, tmp_path, monkeypatch):
        folder, frame = kept
        pipeline = make_pipeline(ImageLoader(size=32), FunctionTransformer(flattened), LogisticRegression())
        pipeline.fit(frame["path"], frame["target"])
        save_model(pipeline, tmp_path / "model.joblib")
        path = frame["path"].iloc[0]
        done = call("explain", tmp_path / "model.joblib", path, "-o", tmp_path / "heat.png", "--trust")
        assert done.exit_code == 0, done.output
        assert f"Score {pipeline.predict_proba([path])[0, 1]:.3f}; picture: {tmp_path / 'heat.png'}" in done.output
        with Image.open(tmp_path / "heat.png") as picture:
            assert min(picture.size) > 300
        assert "would be overwritten" in fails("explain", tmp_path / "model.joblib", path, "-o", path, "--trust")
        monkeypatch.setattr(LogisticRegression, "predict_proba", lambda self, X: np.full((len(X), 2), np.nan))
        scored = call("predict", tmp_path / "model.joblib", path, "--trust", "--csv")
        monkeypatch.undo()
        assert scored.exit_code == 1
        assert scored.stdout.splitlines()[1] == f"{path},,,0.5,,the model gives it no score"
        refused = fails("explain", folder / "model.skops", path, "-o", tmp_path / "none.png")
        assert "has no ImageLoader" in refused


def flattened(images):
    return np.asarray(images)[..., 0].reshape(len(images), -1) / 255
