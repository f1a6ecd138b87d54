"""The examples and benchmarks run as documented."""

import importlib
import json
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from cxr_sklearn import save_model, train, write_radiographs
from cxr_sklearn.study.recipes import load_recipe

from .conftest import ROOT

ROW_MEANS = ROOT / "tests" / "row_means.py"
RECIPES = sorted((ROOT / "examples" / "recipes").glob("*.py"))


def run(script, *arguments):
    command = [sys.executable, str(ROOT / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_another_hospital(tmp_path):
    frame = write_radiographs(tmp_path / "images", 60, size=32, random_state=0)
    model = train(frame, "shortcuts", store=None, cv=3)
    save_model(model, tmp_path / "model.skops")
    done = run("examples/another_hospital.py", tmp_path / "model.skops", tmp_path / "images", "--draws", 2)
    assert done.returncode == 0, done.stderr
    _, _, *rows = done.stdout.splitlines()
    figures = {row.split()[0]: re.findall(r"(\S+) \((\S+)\)", row) for row in rows}
    assert list(figures) == ["as", "prevalence", "labels"]
    assert {len(found) for found in figures.values()} == {5}
    assert figures["as"][0][1] == "0.000"  # its threshold stays
    assert figures["as"][1] == figures["prevalence"][1] == figures["labels"][1]  # so does the AUC


@pytest.mark.keras
@pytest.mark.slow
def test_batchnorm_collapse(tmp_path):
    done = run("examples/batchnorm_collapse.py", "--images", 20, "--epochs", 2, "--figure", tmp_path / "figure.png")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[2:4]] == ["1", "2"]
    assert re.match(r"moving: calls \d+% of the test images pneumonia; recall [01]\.\d{3}", lines[4])
    assert lines[5].startswith("exact: calls")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


@pytest.mark.keras
@pytest.mark.slow
@pytest.mark.parametrize("network", ["original_study", "vgg16_finetuned"])
def test_evaluate_vs_predict(network):
    small = ("--images", 12, "--size", 48, "--epochs", 1, "--batch-size", 8)
    done = run("examples/evaluate_vs_predict.py", "--network", network, *small)
    assert done.returncode == 0, done.stderr
    first, head, *lines, closest, last = done.stdout.splitlines()
    assert re.match(rf"{network}, weights: random, 24 training images, (\d+) test images, 48 pixels, seed 0", first)
    n = int(re.search(r"(\d+) test images", first)[1])
    assert re.split(r"\s\s+", head.strip())[-1] == "first verdict"
    ways = {}
    for line in lines:
        name, counts, rest, verdict = re.fullmatch(r"(.+?) {2,}((?:\d+ +){4})((?:-?[\d.]+ +){7})(.+)", line).groups()
        ways[name.strip()] = ([int(count) for count in counts.split()], [float(x) for x in rest.split()], verdict)
    distances = [rates[-1] for _, rates, _ in ways.values()]
    assert len(ways) == (17 if network == "original_study" else 16)
    assert distances == sorted(distances)
    for name, ((tp, fn, fp, tn), (accuracy, _, recall, fpr, *_, distance), _) in ways.items():
        assert tp + fn + fp + tn == (n // 8 * 8 if "n // batch_size" in name else n), name
        assert accuracy == pytest.approx((tp + tn) / (tp + fn + fp + tn), abs=6e-4)
        assert (recall, fpr) == pytest.approx((tp / (tp + fn), fp / (fp + tn)), abs=6e-4)
        assert distance == pytest.approx(((recall - 131 / 234) ** 2 + (fpr - 6 / 234) ** 2) ** 0.5, abs=2e-3)
    right, shuffled = ways["the right way"], ways["shuffled generator"]
    assert right[2] == "consistent: no discrepancy"
    assert right[0][0] + right[0][2] == shuffled[0][0] + shuffled[0][2]
    (moved,) = (way for name, way in ways.items() if name.startswith("the best threshold"))
    assert moved[1][-3:-1] == right[1][-3:-1]  # mean and spread of the log odds
    assert closest.startswith("Closest to the study's list, recall 0.560 and FPR 0.026: ")
    assert closest.endswith(f"and {moved[1][-1]:.3f} at the best threshold.")
    accuracies = re.fullmatch(
        r"pipeline.score: accuracy (\S+); from pipeline.predict, shuffled and in five parts: (\S+)", last
    )
    assert accuracies[1] == accuracies[2] == f"{(right[0][0] + right[0][3]) / n:.4f}"


def test_the_table_of_faults_is_sorted_by_the_distance_to_the_list(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples")
    example = importlib.import_module("evaluate_vs_predict")
    target = np.repeat([0, 1], 234)
    draw = np.random.default_rng(0)
    # 212 and 20 are called positive at 0.5; by the list, 131 and 6 of them.
    right = draw.uniform(-3, -2, 468)
    right[[*range(20), *range(234, 234 + 212)]] = draw.uniform(1, 2, 232)
    right[[*range(6), *range(234, 234 + 131)]] = draw.uniform(3, 4, 137)
    moved = example.closest_threshold(target, right)
    table = example.left_behind(
        {
            "the right way": (target, right, 0.5),
            "another": (target, -right, 0.5),
            "list": (target, right, moved),
        }
    )
    assert table.index.tolist() == ["list", "the right way", "another"]
    assert table["distance"].tolist()[:2] == ["0.000", f"{((212 - 131) ** 2 + 14**2) ** 0.5 / 234:.3f}"]
    assert table.loc["list", ["tp", "fn", "fp", "tn"]].tolist() == [131, 103, 6, 228]
    assert table.loc["the right way", ["tp", "fn", "fp", "tn"]].tolist() == [212, 22, 20, 214]
    assert table["first verdict"].tolist()[1] == "consistent: no discrepancy"


@pytest.mark.keras
@pytest.mark.slow
def test_original_study():
    done = run("examples/original_study.py", "--images", 12, "--size", 32, "--epochs", 1)
    assert done.returncode == 0, done.stderr
    first, head, *rows = done.stdout.splitlines()
    assert first.startswith("24 training images, 12 test images, VGG16 with weights: random")
    assert head.split() == ["loss", "accuracy", "precision", "recall", "AUC"]
    assert len(rows) == 6
    here, reported = (dict(re.fullmatch(rf"(\w+), {who} +(.+)", row).groups() for row in rows[i::2])
                      for i, who in enumerate(("here", "reported")))  # fmt: skip
    assert list(here) == list(reported) == ["original_cnn_small", "original_cnn_large", "original_study"]
    assert reported["original_cnn_small"].split() == ["2.1249", "0.5000", "0.5000", "1.0000", "0.8238"]
    assert reported["original_study"].split() == ["0.4427", "0.9103", "0.9138", "0.9060", "0.9608"]
    for figures in here.values():
        loss, accuracy, precision, recall, auc = map(float, figures.split())
        assert loss > 0
        assert 0 <= auc <= 1
        if recall:  # with equally many images of both classes, each follows from the others
            assert accuracy == pytest.approx((1 + recall * (2 - 1 / precision)) / 2, abs=1e-3)


@pytest.mark.slow
def test_the_study_goes_on_where_it_was(tmp_path):
    write_radiographs(tmp_path / "drawn", 60, size=48, random_state=0)
    arguments = ["benchmarks/study.py", tmp_path / "drawn", "--out", tmp_path / "out", "--images", "20"]
    first = run(*arguments, "--recipes", "shortcuts")
    assert first.returncode == 0, first.stderr
    row = ["20", "shortcuts", "1"]
    assert first.stdout.splitlines()[-1].replace("|", " ").split()[:3] == row
    again = run(*arguments, "--recipes", "shortcuts")
    assert again.stdout.splitlines() == first.stdout.splitlines()[1:]  # the table, without another fit
    fits = pd.read_csv(tmp_path / "out" / "fits.csv")
    assert len(fits) == 1
    with_changes = run(*arguments, "--recipes", ROW_MEANS, "shortcuts", "--stress", "--seeds", "1")
    assert with_changes.returncode == 0, with_changes.stderr
    fits = pd.read_csv(tmp_path / "out" / "fits.csv").set_index("recipe")
    assert fits["stress"].all()
    assert fits["robust threshold"].notna().tolist() == [True, False]


@pytest.mark.keras
@pytest.mark.slow
def test_the_finetuning_benchmark():
    """It runs and prints its measurements; their values are not tested."""
    done = run("benchmarks/finetune.py", "--images", 16)
    result = json.loads(done.stdout)
    assert result["images"] == 16
    assert min(result["whole_epoch_s"], result["frozen_part_once_s"]) > 0


@pytest.mark.keras
@pytest.mark.slow
def test_the_training_benchmark():
    done = run("benchmarks/training.py", "--quick")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)["figures"]
    assert len(figures) == 6
    assert all(known["met"] is None for known in figures)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_build_and_their_grids_fit(path):
    recipe = load_recipe(path)
    pipeline = recipe.build(weights="random", random_state=0)
    assert set(recipe.param_grid) <= set(pipeline.get_params())


def test_there_are_recipes():
    assert RECIPES


@pytest.mark.slow
def test_benchmarks_are_run_one_after_the_other():
    done = run("benchmarks/run.py", "--quick", "--only", "store")
    assert done.returncode == 0, done.stderr
    assert "| store | 300 rows read |" in done.stdout
    assert "not judged" in done.stdout


@pytest.mark.slow
def test_the_report_is_timed():
    done = run("benchmarks/report.py", "--images", 3000)
    assert "report of 3,000 x 5" in done.stdout
    assert "ratio" in done.stdout


@pytest.mark.slow
def test_the_check_of_a_set_is_timed():
    done = run("benchmarks/data.py", "--images", 30, "--names", 100)
    assert "check of 30 files" in done.stdout
    assert "load_folder on 100 file names" in done.stdout
    assert "grey levels differ by" in done.stdout


@pytest.mark.keras
@pytest.mark.slow
def test_batch_sizes_are_timed():
    done = run("benchmarks/batches.py", "--images", 4, "--batches", 2)
    assert done.returncode == 0, done.stderr
    assert [line.split(":")[0] for line in done.stdout.splitlines()[1:]] == [
        "network, float32, batches of 2",
        "network, bfloat16, batches of 2",
    ]
