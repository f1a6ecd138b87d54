"""The trained models to hand out: a stopped run resumes, and cards agree with the table of scores."""

import argparse
import hashlib
import importlib.util
import json
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, brier_score_loss, confusion_matrix, log_loss, recall_score, roc_auc_score

from cxr_sklearn import load_model, write_radiographs
from cxr_sklearn.classifiers import _training as training
from cxr_sklearn.classifiers._training import Checkpoint
from cxr_sklearn.study.recipes import load_recipe

from .conftest import ROOT

TINY = '''"""A tiny fine-tuned network."""
from sklearn.pipeline import Pipeline
from cxr_sklearn import FineTunedClassifier, ImageLoader
def build(weights="imagenet", random_state=None, checkpoint=None):
    classifier = FineTunedClassifier(
        "VGG16", weights=weights, trainable_from="block5_conv3", dense_units=0, head_epochs=0, epochs=2,
        early_stopping=False, carry_frozen=True, checkpoint=checkpoint, random_state=random_state)
    return Pipeline([("load", ImageLoader(size=32)), ("classify", classifier)])
'''
FROZEN = '''"""A tiny frozen network."""
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from cxr_sklearn import FrozenEmbedder, ImageLoader
def build(store="auto", weights="imagenet"):
    embed = FrozenEmbedder("VGG16", weights=weights, store=store)
    return Pipeline([("load", ImageLoader(size=32)), ("embed", embed), ("classify", LogisticRegression(C=1e-4))])
'''


class Killed(BaseException):
    """In place of the signal that ends a process: nothing catches it."""


@pytest.fixture(scope="module")
def zoo():
    spec = importlib.util.spec_from_file_location("zoo", ROOT / "benchmarks" / "zoo.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def radiographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("radiographs")
    write_radiographs(folder, 100, size=48, random_state=0)
    return folder


@pytest.fixture
def make(zoo, radiographs, tmp_path, monkeypatch):
    """Run the script in this process and return the recipes that it trained."""

    def run(*recipes, weights="random", out=tmp_path / "zoo", seeds=1):
        trained = []

        def train(frame, recipe, **options):
            trained.append(recipe)
            return run.train(frame, recipe, **options)

        monkeypatch.setattr(zoo, "train", train)
        arguments = [radiographs, "--weights", weights, "--out", out, "--seeds", seeds, "--recipes", *recipes]
        monkeypatch.setattr(sys, "argv", ["zoo.py", *map(str, arguments)])
        zoo.main()
        return trained

    run.train = zoo.train
    return run


def killed(*_, **__):
    raise Killed


def test_a_killed_run_goes_on(make, zoo, tmp_path, monkeypatch):
    out = tmp_path / "zoo"
    with monkeypatch.context() as patch:  # after the first model was saved
        patch.setattr(zoo, "score_rows", killed)
        with pytest.raises(Killed):
            make("shortcuts", seeds=2)
    assert [path.name for path in out.iterdir()] == ["shortcuts-seed0.skops"]
    whole, make.train = make.train, killed
    with pytest.raises(Killed):  # while the second was trained
        make("shortcuts", seeds=2)
    assert [entry["name"] for entry in json.loads((out / "index.json").read_text())] == ["shortcuts-seed0"]
    make.train = whole
    assert make("shortcuts", seeds=2) == ["shortcuts"]
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert sorted(before) == sorted(
        [*(f"shortcuts-seed{seed}.{end}" for seed in (0, 1) for end in ("md", "skops")), "README.md", "index.json",
         "scores.csv"]
    )  # fmt: skip
    assert make("shortcuts", seeds=2) == []
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_cards_say_what_the_scores_say(make, radiographs, tmp_path, monkeypatch):
    make("shortcuts")
    monkeypatch.chdir(tmp_path / "zoo")
    (entry,) = json.loads((tmp_path / "zoo" / "index.json").read_text())
    card = (tmp_path / "zoo" / "shortcuts-seed0.md").read_text()
    scores = pd.read_csv("scores.csv")
    assert not scores.duplicated(["path", "pipeline"]).any()
    threshold = entry["threshold"]
    shown = dict(re.findall(r"^\| ([^|]+) \| (.+) \|$", card, re.MULTILINE))
    for i, (part, split) in enumerate((("held_out", "train"), ("test", "test"))):
        rows = scores[scores["split"] == split]
        y, p = rows["target"], rows["score"]
        called = p >= threshold
        tn, fp, fn, tp = confusion_matrix(y, called).ravel().tolist()
        for key, label, value in (
            ("roc_auc", "AUC", roc_auc_score(y, p)),
            ("accuracy", "accuracy", accuracy_score(y, called)),
            ("recall", "sensitivity", recall_score(y, called)),
            ("specificity", "specificity", recall_score(y, called, pos_label=0)),
            ("log_loss", "log loss", log_loss(y, p)),
            ("brier", "Brier score", brier_score_loss(y, p)),
        ):
            assert entry[part][key]["value"] == pytest.approx(value)
            assert shown[label].split(" | ")[i].startswith(f"{value:.3f}")
            low, high = entry[part][key]["ci95"] or (value, value)
            assert low - 1e-9 <= value <= high + 1e-9
        assert shown["TP, FN, FP, TN"].split(" | ")[i] == f"{tp}, {fn}, {fp}, {tn}"
        assert shown["patients"].split(" | ")[i] == str(rows["patient"].nunique())
    assert hashlib.sha256((tmp_path / "zoo" / entry["file"]).read_bytes()).hexdigest() == entry["sha256"]
    assert f"`{entry['sha256']}`" in card
    # The usage shown in the card works, and the file gives the scores of the table.
    test = scores[scores["split"] == "test"]
    image = str(radiographs / test["path"].iloc[0])
    code = re.search(r"```python\n(.+?)```", card, re.DOTALL)[1].replace("image.jpeg", image)
    assert code.count("\n") == 3
    found = {}
    exec(code, found)
    assert found["is_pneumonia"].tolist() == [test["score"].iloc[0] >= threshold]
    paths = [str(radiographs / path) for path in scores["path"]]
    np.testing.assert_allclose(load_model(entry["file"]).predict_proba(paths)[:, 1], scores["score"], rtol=1e-6)


def test_a_file_with_other_scores_is_reported(make, tmp_path):
    make("shortcuts")
    path = tmp_path / "zoo" / "scores.csv"
    scores = pd.read_csv(path)
    scores.assign(score=1 - scores["score"]).to_csv(path, index=False)
    with pytest.raises(SystemExit, match="are not those it had when it was trained"):
        make("shortcuts")
    (tmp_path / "zoo" / "shortcuts-seed0.skops").unlink()
    assert make("shortcuts") == ["shortcuts"]
    pd.testing.assert_frame_equal(pd.read_csv(path), scores)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("", "--weights", "random", "--out", "zoo"), "there is no folder '' of radiographs"),
        (("nowhere", "--weights", "random", "--out", "zoo"), "there is no folder 'nowhere' of radiographs"),
        ((".", "--weights", "", "--out", "zoo"), "there is no weights file ''"),
        ((".", "--weights", "VGG16.h5", "--out", "zoo"), "there is no weights file 'VGG16.h5'"),
        ((".", "--weights", "random", "--out", ""), "name the folder to write the models to"),
        ((".", "--weights", "random", "--out", "zoo", "--recipes", "none"), "no recipe 'none'"),
        ((".", "--weights", "random", "--out", "zoo", "--recipes", "shortcuts"), "no images"),
    ],
)
def test_a_missing_file_gives_one_line(zoo, arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["zoo.py", *arguments])
    with pytest.raises(SystemExit, match=re.escape(message)) as told:
        zoo.main()
    assert "\n" not in str(told.value)


def test_make_passes_on_what_it_is_given():
    given = ["DATA=chest xray", "WEIGHTS=VGG16.h5", "OUT=models", "SEEDS=1"]
    done = subprocess.run(["make", "-n", "zoo", *given], cwd=ROOT, capture_output=True, text=True, check=True)
    command = re.sub(r"\\\s+", "", done.stdout)
    assert 'benchmarks/zoo.py "chest xray" --weights "VGG16.h5" --out "models"' in command
    assert "--seeds 1" in command


def test_the_fine_tuned_model_carries_its_frozen_part(zoo):
    recipe = load_recipe(zoo.recipe_of("vgg16_finetuned"))
    assert recipe.name == "vgg16_finetuned"
    shipped = load_recipe("vgg16_finetuned").build(weights="random", random_state=1, checkpoint="there")
    built = recipe.build(weights="random", random_state=1, checkpoint="there")
    assert built[-1].carry_frozen
    assert repr(built.set_params(classify__carry_frozen=False)) == repr(shipped)


@pytest.mark.keras
@pytest.mark.slow
def test_a_killed_training_goes_on_from_its_checkpoint(make, tmp_path, monkeypatch):
    import keras

    weights = tmp_path / "VGG16.weights.h5"
    keras.applications.VGG16(weights=None, include_top=False).save_weights(weights)
    recipes = []
    for name, code in (("tiny", TINY), ("frozen", FROZEN)):
        recipes.append(tmp_path / f"{name}.py")
        recipes[-1].write_text(code)
    save, saved = Checkpoint.save, []

    def save_twice(self, arrays, facts):
        save(self, arrays, facts)
        saved.append(facts)
        if len(saved) == 2:  # before the first epoch, and after it
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "save", save_twice)
        with pytest.raises(Killed):
            make(*recipes, weights=weights)
    assert [path.name for path in (tmp_path / "zoo").iterdir()] == ["checkpoints"]
    with monkeypatch.context() as patch:
        one_epoch, epochs = training._one_epoch, []
        patch.setattr(training, "_one_epoch", lambda *rest: epochs.append(1) or one_epoch(*rest))
        make(*recipes, weights=weights)
        assert len(epochs) == 1
    make(recipes[0], weights=weights, out=tmp_path / "at once")
    stopped, at_once = (pd.read_csv(tmp_path / out / "scores.csv") for out in ("zoo", "at once"))
    pd.testing.assert_frame_equal(stopped[stopped["pipeline"] == "tiny-seed0"], at_once)

    tiny, frozen = ((tmp_path / "zoo" / f"{name}-seed0.md").read_text() for name in ("tiny", "frozen"))
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert f"VGG16, `sha256:{digest}` (a file, VGG16.weights.h5)" in tiny
    assert f"VGG16, `sha256:{digest}` (a file, VGG16.weights.h5)" in frozen
    assert "it needs no other" in tiny
    assert "needs the weights file" in frozen
    assert 'load_model("frozen-seed0.skops", weights="VGG16.h5")' in frozen
    weights.unlink()
    load_model(tmp_path / "zoo" / "tiny-seed0.skops")


def test_other_models_stay_in_the_index_as_long_as_their_files_are_there(zoo, tmp_path):
    names = ["a-seed0", "a-seed1", "b-seed0", "gone-seed0"]
    (tmp_path / "index.json").write_text(json.dumps([{"name": name, "file": f"{name}.skops"} for name in names]))
    for name in names[:3]:
        (tmp_path / f"{name}.skops").touch()
    options = argparse.Namespace(recipes=["a", "c"], seeds=1)
    assert [facts["name"] for facts in zoo.earlier(tmp_path, options)] == ["a-seed1", "b-seed0"]
    assert zoo.earlier(tmp_path / "new", options) == []
