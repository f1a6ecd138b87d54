"""The examples and benchmarks run as they are shown."""

import json
import re
import subprocess
import sys

import pytest

from cxr_sklearn.recipes import load_recipe

from .conftest import ROOT

RECIPES = sorted((ROOT / "examples" / "recipes").glob("*.py"))


def run(script, *arguments):
    command = [sys.executable, str(ROOT / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


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
def test_evaluate_vs_predict():
    small = ("--images", 20, "--size", 48, "--epochs", 1, "--batch-size", 8)
    done = run("examples/evaluate_vs_predict.py", *small)
    assert done.returncode == 0, done.stderr
    first, _, *rows, last = done.stdout.splitlines()
    assert first.startswith("VGG16 (random weights), 40 training images, 18 test images")
    assert len(rows) == 8
    right, shuffled, truncated, moved = (
        [int(count) for count in re.findall(r" (\d+)(?= )", row)[:4]] for row in rows[:4]
    )
    assert rows[0].endswith("consistent: no discrepancy")
    assert [sum(right), sum(shuffled), sum(moved)] == [18] * 3
    assert right[0] + right[2] == shuffled[0] + shuffled[2]
    assert sum(truncated) == 16
    assert rows[2].endswith("consistent: truncated or different set of images")
    assert moved[0] <= right[0]
    assert moved[2] <= right[2]
    accuracies = re.fullmatch(
        r"pipeline.score: accuracy (\S+); from pipeline.predict, one image at a time: (\S+)", last
    )
    assert accuracies[1] == accuracies[2] == f"{(right[0] + right[3]) / 18:.4f}"


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
        if recall:  # of as many images of either class, the three say the same
            assert accuracy == pytest.approx((1 + recall * (2 - 1 / precision)) / 2, abs=1e-3)


@pytest.mark.keras
@pytest.mark.slow
def test_the_finetuning_benchmark():
    """That it runs and says what it measured; how fast it is decides nothing here."""
    done = run("benchmarks/finetune.py", "--images", 16)
    result = json.loads(done.stdout)
    assert result["images"] == 16
    assert min(result["whole_epoch_s"], result["frozen_part_once_s"]) > 0


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_build_and_their_grids_fit(path):
    recipe = load_recipe(path)
    pipeline = recipe.build(weights="random", random_state=0)
    assert set(recipe.param_grid) <= set(pipeline.get_params())


def test_there_are_recipes():
    assert len(RECIPES) == 2


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
