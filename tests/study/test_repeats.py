import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn import metrics as sk
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.decomposition import PCA
from sklearn.ensemble import StackingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer

from cxr_sklearn import ImageLoader, compare
from cxr_sklearn.evaluation.thresholds import find_threshold, parse_rule
from cxr_sklearn.study.recipes import candidates_of
from cxr_sklearn.study.repeats import Trained, worth_repeating
from cxr_sklearn.study.run_folder import write_results

pytestmark = pytest.mark.filterwarnings("ignore:the model (is|of .* is not) kept")


class Lucky(ClassifierMixin, BaseEstimator):
    """Sees the difference of the image's halves through noise, whose amount depends on the seed."""

    fits: list[int] = []

    def __init__(self, random_state=None, fails_with_other_seeds=False, noise=0.5):
        self.random_state = random_state
        self.fails_with_other_seeds = fails_with_other_seeds
        self.noise = noise

    def fit(self, X, y):
        if self.fails_with_other_seeds and self.random_state != 0:
            raise ValueError("diverged")
        self.fits.append(len(X))
        self.classes_ = np.array([0, 1])
        return self

    def predict_proba(self, X):
        grey = np.asarray(X)[..., 0].astype(float)
        rng = np.random.default_rng(self.random_state)
        seen = (grey[:, :, 4:].mean(axis=(1, 2)) - grey[:, :, :4].mean(axis=(1, 2))) / 20
        p = 1 / (1 + np.exp(-seen - self.noise * rng.random() * rng.normal(size=len(grey))))
        return np.column_stack([1 - p, p])


def blind(X):
    return np.asarray(X)[:, 0, 0, :1].astype(float)


def pipeline(classifier):
    return make_pipeline(ImageLoader(size=8), classifier)


@pytest.fixture(scope="module")
def frame(tmp_path_factory):
    """Small images whose right half is brighter than their left one in pneumonia; 80 each in val and test."""
    folder, rng, rows = tmp_path_factory.mktemp("halves"), np.random.default_rng(0), []
    for split, n in (("train", 60), ("val", 80), ("test", 80)):
        for i in range(n):
            pixels = rng.integers(60, 180, (8, 8))
            pixels[:, 4:] += 30 * (i % 2)
            path = folder / f"{split}{i}.png"
            Image.fromarray(pixels.astype(np.uint8)).save(path)
            rows.append((str(path), i % 2, split, f"{split}{i // 2 * 2 + i % 2}"))
    return pd.DataFrame(rows, columns=["path", "target", "split", "patient"])


@pytest.fixture(scope="module")
def repeated(frame, tmp_path_factory):
    """A run with a random winner, a random loser and two whose training is not random."""
    out = tmp_path_factory.mktemp("repeated") / "run"
    losers = {
        "loses": MLPClassifier((2,), max_iter=9999, random_state=0),
        "bayes": GaussianNB(),
        "logistic": LogisticRegression(random_state=0),  # takes a seed, and needs none
    }
    pipelines = {"lucky": pipeline(Lucky(0))} | {
        name: make_pipeline(ImageLoader(size=8), FunctionTransformer(blind), loser) for name, loser in losers.items()
    }
    return compare(frame, pipelines, out=out, store=None, cv=2, repeats=4), out


def test_the_best_and_those_it_beats_are_trained_again(repeated, frame):
    metrics, out = repeated
    assert metrics["verdict"]["best"] == "lucky"
    assert set(metrics["verdict"]["worse"]) == {"loses", "bayes", "logistic"}
    runs = pd.read_csv(out / "runs.csv")
    assert set(runs["pipeline"]) == {"lucky", "loses", "logistic"}
    n = frame["split"].value_counts()
    assert (runs.groupby(["pipeline", "run"]).size() == n["val"] + n["test"]).all()
    assert {(p["n"], p["random"]) for p in (metrics["pipelines"][name]["runs"] for name in ("lucky", "loses"))} == {
        (4, True)
    }
    assert metrics["run"]["repeats"] == 4


def test_every_run_has_scores_and_a_threshold_of_its_own(repeated):
    metrics, out = repeated
    runs, facts = pd.read_csv(out / "runs.csv").query("pipeline == 'lucky'"), metrics["pipelines"]["lucky"]
    found = facts["runs"]["metrics"]
    assert facts["runs"]["thresholds"] == "own"
    assert [found[metric]["values"][0] for metric in found] == [facts["test"][metric]["value"] for metric in found]
    for i, (_, rows) in enumerate(runs.groupby("run"), 1):
        val, test = (rows[rows["split"] == split] for split in ("val", "test"))
        called = test["score"] >= find_threshold(parse_rule("youden"), val["target"], val["score"])
        assert found["roc_auc"]["values"][i] == pytest.approx(sk.roc_auc_score(test["target"], test["score"]))
        assert found["accuracy"]["values"][i] == pytest.approx(sk.accuracy_score(test["target"], called))
    assert len(set(found["log_loss"]["values"])) == 4


def test_what_is_not_random_is_not_trained_again(repeated):
    metrics, out = repeated
    bayes, logistic = (metrics["pipelines"][name]["runs"] for name in ("bayes", "logistic"))
    assert (bayes["n"], bayes["random"], bayes["metrics"]["roc_auc"]["std"]) == (1, False, 0)
    assert (logistic["n"], logistic["random"], logistic["metrics"]["roc_auc"]["std"]) == (4, False, 0)
    page, card = ((out / name).read_text() for name in ("report.html", "model-card.md"))
    for text in (page, card):
        assert "bayes: its training is not random, since nothing in it takes a seed" in text
        assert "logistic: all runs gave the same scores" in text
        assert "Each run chose its own threshold" in text


def test_a_report_can_be_made_of_the_tables_again(repeated, tmp_path):
    metrics, out = repeated
    shutil.copytree(out, tmp_path / "run")
    assert write_results(tmp_path / "run") == metrics
    fixed = write_results(tmp_path / "run", threshold=0.5, lang="es")
    assert {p["runs"]["thresholds"] for p in fixed["pipelines"].values() if p["runs"]} == {"fixed"}
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Cuánto importa el azar del entrenamiento" in page
    assert len(re.findall(r'<th scope="row" rowspan="4">', page)) == 4


def test_once_is_the_default(frame, tmp_path):
    metrics = compare(frame, {"lucky": pipeline(Lucky(0))}, out=tmp_path, store=None, cv=2)
    assert not (tmp_path / "runs.csv").exists()
    assert all(facts["runs"] is None for facts in metrics["pipelines"].values())
    assert "chance of the training" not in (tmp_path / "report.html").read_text()


def test_a_training_that_fails_costs_itself_alone(frame, tmp_path):
    lucky = pipeline(Lucky(0, fails_with_other_seeds=True))
    with pytest.warns(UserWarning, match="training run [23] of lucky failed: ValueError: diverged; the report leaves"):
        metrics = compare(frame, {"lucky": lucky}, out=tmp_path, store=None, cv=2, repeats=3)
    assert metrics["pipelines"]["lucky"]["runs"] is None
    assert metrics["failed"] == {}
    assert "A repeated training is left out: training run 2 of lucky" in (tmp_path / "report.html").read_text()
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics


@pytest.mark.parametrize(("few", "cv", "kind"), [(False, 2, "own"), (True, 2, "kept"), (True, 1, "kept")])
def test_every_run_is_calibrated(frame, tmp_path, few, cv, kind):
    """Anew on the validation images or, if these are few, as the first run was: the same seed gives the same scores."""
    frame = frame[(frame["split"] != "val") | ~np.array(few)]
    Lucky.fits.clear()
    metrics = compare(frame, {"lucky": pipeline(Lucky(0, noise=0))}, out=tmp_path, store=None, cv=cv, repeats=2,
                      calibrate="sigmoid")  # fmt: skip
    first, again = (pd.read_csv(tmp_path / f"{name}.csv").query("pipeline == 'lucky'") for name in ("scores", "runs"))
    merged = first.merge(again, on="path", suffixes=("", "_again"))
    np.testing.assert_allclose(merged["score_again"], merged["score"])
    assert len(merged) == (frame["split"] != "train").sum()
    assert metrics["pipelines"]["lucky"]["runs"]["thresholds"] == kind
    whole = 60 if cv > 1 else Lucky.fits[0]
    assert Lucky.fits[-1] == whole  # the second run
    assert Lucky.fits.count(whole) == 2


def test_everything_that_is_random_gets_another_seed():
    stack = StackingClassifier([("mlp", MLPClassifier()), ("log", LogisticRegression(random_state=3))], GaussianNB())
    (candidate,) = candidates_of({"x": (Pipeline([("pca", PCA(2)), ("classify", stack)]), {"pca": [PCA(3)]})}, ())
    trained = Trained(candidate, {"pca": PCA(5)}, None, None)
    assert trained.takes_seed
    again = trained.with_seed(7)
    assert again["pca"].n_components == 5
    assert {key: value for key, value in again.get_params().items() if key.endswith("random_state")} == dict.fromkeys(
        ["pca__random_state", "classify__mlp__random_state", "classify__log__random_state"], 7
    )
    assert trained.best_params["pca"].random_state is None
    assert not Trained(*candidates_of({"x": make_pipeline(GaussianNB())}, ()), {}, None, None).takes_seed


def test_a_recipe_is_built_with_another_seed(tmp_path):
    path = tmp_path / "seeded.py"
    path.write_text(
        "from sklearn.linear_model import LogisticRegression\nfrom sklearn.pipeline import Pipeline\n"
        "from sklearn.preprocessing import FunctionTransformer\n"
        "def build(random_state=None):\n"
        "    step = FunctionTransformer(kw_args={'seed': random_state})\n"
        "    return Pipeline([('step', step), ('classify', LogisticRegression(random_state=1))])\n"
    )
    (candidate,) = candidates_of(path, (), random_state=3, balance="undersample")
    again = Trained(candidate, {"classify__estimator__C": 5}, None, None).with_seed(9)
    params = again.get_params()
    assert params["step__kw_args"] == {"seed": 9}
    assert params["classify__estimator__C"] == 5
    assert params["classify__random_state"] == params["classify__estimator__random_state"] == 9
    assert candidate.pipeline["step"].kw_args == {"seed": 3}


def test_only_claims_are_tested():
    pairs = [{"a": "a", "b": "b", "supported": True}, {"a": "c", "b": "a", "supported": True},
             {"a": "d", "b": "a", "supported": False}, {"a": "b", "b": "c", "supported": True}]  # fmt: skip
    assert worth_repeating({"verdict": {"best": "a"}, "comparisons": pairs}) == ["a", "b", "c"]
