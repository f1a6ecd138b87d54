import os

import numpy as np
import pytest
from scipy.special import expit
from sklearn.base import clone
from sklearn.ensemble import StackingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import ParameterGrid
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from cxr_sklearn import ImageLoader, compare, write_radiographs
from cxr_sklearn.exceptions import CXRError, RecipeError, WeightsUnavailableError
from cxr_sklearn.study.recipes import (
    Candidate,
    balanced,
    candidates_of,
    default_recipes,
    load_recipe,
    recipe_names,
)

from ..conftest import ROOT

FILES = {path.stem: path.read_text(encoding="utf-8") for path in sorted((ROOT / "pipelines").glob("*.py"))}
ON_REQUEST = [name for name, text in FILES.items() if "\nON_REQUEST = True\n" in text]
BY_DEFAULT = [name for name in FILES if name not in ON_REQUEST]
OWN = '''"""My own approach.

More words.
"""
from sklearn.dummy import DummyClassifier
from sklearn.pipeline import Pipeline

def build(random_state=None):
    return Pipeline([("classify", DummyClassifier(random_state=random_state))])
'''


def test_shipped_recipes():
    assert recipe_names() == list(FILES)
    assert "shortcuts" in BY_DEFAULT


def test_slow_recipes_are_compared_only_where_they_are_named():
    assert default_recipes() == BY_DEFAULT
    options = {"weights": "random", "store": None, "random_state": 0}
    assert [found.name for found in candidates_of(None, default_recipes(), **options)] == BY_DEFAULT
    assert [found.name for found in candidates_of(ON_REQUEST, default_recipes(), **options)] == ON_REQUEST


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_builds_and_its_grid_fits(name):
    recipe = load_recipe(name)
    pipeline = recipe.build(store=None, weights="random", random_state=0)
    assert isinstance(pipeline, Pipeline)
    assert recipe.description.endswith(".")
    for params in ParameterGrid(recipe.param_grid or {}):
        pipeline.set_params(**params)
    options = {name.split("__")[-1]: value for name, value in pipeline.get_params().items()}
    assert options["random_state"] == 0
    if recipe.takes("weights"):
        assert options["weights"] == "random"
    if "store" in options:
        assert options["store"] is None


def candidate(pipeline, grid=None):
    return Candidate("mine", "Mine.", pipeline, grid or {})


@pytest.mark.parametrize("name", recipe_names())
@pytest.mark.parametrize("method", ["undersample", "weights", "augment"])
def test_every_shipped_recipe_can_be_balanced(name, method):
    (found,) = candidates_of(name, (), balance=method, weights="random", store=None, random_state=3)
    if method == "augment" and name == "shortcuts":  # it has no images to draw views of
        assert found.balance == "none"
        return
    last = found.pipeline[-1]
    assert (last.method, last.random_state, found.balance) == (method, 3, method)
    assert getattr(last.estimator, "class_weight", None) is None  # or classes would be weighted twice


def test_balancing_wraps_the_last_step_or_all_that_comes_after_the_loader():
    steps = [
        ("load", ImageLoader()),
        ("scale", StandardScaler()),
        ("head", LogisticRegression(class_weight="balanced")),
    ]
    grid = [{"head__C": [1, 2], "scale": ["passthrough"]}, {"load__size": [8, 16]}]
    weighted = balanced(candidate(Pipeline(steps), grid), "weights", 0)
    assert [name for name, _ in weighted.pipeline.steps] == ["load", "scale", "head"]
    assert weighted.param_grid == [{"head__estimator__C": [1, 2], "scale": ["passthrough"]}, {"load__size": [8, 16]}]
    augmented = balanced(candidate(Pipeline(steps), grid), "augment", 0)
    assert [name for name, _ in augmented.pipeline.steps] == ["load", "balanced"]
    assert augmented.param_grid == [
        {"balanced__estimator__head__C": [1, 2], "balanced__estimator__scale": ["passthrough"]},
        {"load__size": [8, 16]},
    ]
    for found in (weighted, augmented):
        for params in ParameterGrid(found.param_grid):
            clone(found.pipeline).set_params(**params)
    assert steps[-1][1].class_weight == "balanced"  # the user's own estimator is not changed
    assert balanced(candidate(Pipeline(steps)), "none", 0).pipeline.steps == steps


def test_what_a_recipe_takes(tmp_path):
    (tmp_path / "any.py").write_text(
        OWN.replace("random_state=None", "**options").replace("=random_state", "=options.pop('random_state')")
    )
    assert load_recipe(tmp_path / "any.py").takes("checkpoint")
    load_recipe(tmp_path / "any.py").build(random_state=3, store=None)
    assert load_recipe("vgg16_logistic").takes("store")
    assert not load_recipe("shortcuts").takes("weights")


def test_a_recipe_of_ones_own(tmp_path):
    (tmp_path / "mine.py").write_text(OWN)
    recipe = load_recipe(tmp_path / "mine.py")
    assert (recipe.name, recipe.description, recipe.param_grid) == ("mine", "My own approach.", {})
    assert recipe.build(store=None, weights="random", random_state=5)["classify"].random_state == 5


def test_a_recipe_may_hold_a_dataclass(tmp_path):
    imports = "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom sklearn.dummy"
    text = OWN.replace("from sklearn.dummy", imports) + "\n@dataclass\nclass Own:\n    number: int = 3\n"
    (tmp_path / "mine.py").write_text(text)
    load_recipe(tmp_path / "mine.py").build()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("absent", None, "shipped are .*, shortcuts, "),
        ("absent.py", None, "no recipe"),
        ("empty.py", "", "defines no function build"),
        ("broken.py", "import nothing_of_the_kind", "cannot be run: ModuleNotFoundError"),
        ("other.py", "def build():\n    return 3", "must return a Pipeline, not int"),
        ("fails.py", "def build():\n    1 / 0", "failed: ZeroDivisionError"),
        ("leaves.py", "import sys\nsys.exit(0)", "cannot be run: SystemExit"),
        (
            "grid.py",
            OWN + "\nPARAM_GRID = {'classify__C': [1]}",
            "the parameter grid of the pipeline of recipe grid does not",
        ),
        (
            "kind.py",
            OWN + "\nPARAM_GRID = {'classify__strategy': 5}",
            "the parameter grid of the pipeline of recipe kind does not",
        ),
        (
            "deep.py",
            OWN + "\nPARAM_GRID = {'classify__strategy__x': [5]}",
            "the parameter grid of the pipeline of recipe deep does not",
        ),
        ("svm.py", OWN.replace("dummy", "svm").replace("DummyClassifier", "LinearSVC"), "has no predict_proba"),
    ],
)
def test_recipes_that_cannot_be_used(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(RecipeError, match=message) as caught:
        load_recipe(tmp_path / name if name.endswith(".py") else name).build()
    assert isinstance(caught.value, CXRError | ValueError)


def test_a_stack_with_its_default_last_step_is_taken():
    stack = Pipeline([("scale", StandardScaler()), ("stack", StackingClassifier([("a", LogisticRegression())]))])
    (candidate,) = candidates_of({"stack": stack}, ())
    assert candidate.pipeline.fit(np.eye(10), [0, 1] * 5).predict_proba(np.eye(10)).shape == (10, 2)


def test_the_cnns_of_the_original_study_differ_in_their_filters_alone():
    small, large = (load_recipe(f"original_cnn_{size}").build(random_state=0) for size in ("small", "large"))
    assert small["classify"].batch_norm_statistics == "moving"
    assert not small["classify"].early_stopping  # it would choose the epoch and hold images out
    small_params, large_params = small["classify"].get_params(), large["classify"].get_params()
    assert small_params.pop("filters") == (16, 32, 64)
    assert large_params.pop("filters") == (32, 64, 128)
    assert small_params == large_params
    assert small["load"].get_params() == large["load"].get_params()


@pytest.fixture(scope="module")
def radiographs(tmp_path_factory):
    return write_radiographs(tmp_path_factory.mktemp("radiographs"), 40, size=48, random_state=0)


@pytest.fixture(scope="module")
def vgg16_weights(tmp_path_factory):
    import keras

    path = tmp_path_factory.mktemp("weights") / "vgg16.weights.h5"
    keras.applications.VGG16(weights=None, include_top=False, input_shape=(32, 32, 3)).save_weights(path)
    return path


@pytest.fixture(scope="module")
def original(radiographs, vgg16_weights):
    pipeline = load_recipe("original_study").build(weights=vgg16_weights, random_state=3)
    pipeline.set_params(load__size=32, classify__epochs=1, classify__head_epochs=1)
    return pipeline.fit(radiographs["path"], radiographs["target"])


@pytest.mark.keras
@pytest.mark.slow
class TestTheVGG16OfTheOriginalStudy:
    def test_only_the_last_block_and_the_head_learn(self, original, vgg16_weights):
        import keras

        vgg16 = keras.applications.VGG16(weights=vgg16_weights, include_top=False, input_shape=(32, 32, 3))
        learned = {
            layer
            for variable, after in zip(vgg16.weights, original["classify"].weights_, strict=False)
            for layer in [variable.path.split("/")[-2]]
            if not np.array_equal(variable.numpy(), after)
        }
        assert learned == {"block5_conv1", "block5_conv2", "block5_conv3"}
        assert [array.shape for array in original["classify"].weights_[-4:]] == [(512, 256), (256,), (256, 1), (1,)]

    def test_the_network_sees_fractions_of_255(self, original, radiographs):
        import keras

        *convolutions, kernel, bias, last_kernel, last_bias = original["classify"].weights_
        vgg16 = keras.applications.VGG16(weights=None, include_top=False, input_shape=(32, 32, 3))
        vgg16.set_weights(convolutions)
        pixels = np.asarray(original["load"].transform(radiographs["path"])) / 255
        maps = vgg16.predict(pixels.astype("float32"), verbose=0).reshape(len(pixels), -1)
        logits = np.maximum(maps @ kernel + bias, 0) @ last_kernel + last_bias
        probabilities = original.predict_proba(radiographs["path"])
        np.testing.assert_allclose(probabilities[:, 1], expit(logits[:, 0]), atol=1e-5)
        np.testing.assert_allclose(probabilities.sum(axis=1), 1)

    def test_the_same_seed_gives_the_same_probabilities(self, original, radiographs):
        again = clone(original).fit(radiographs["path"], radiographs["target"])
        expected = original.predict_proba(radiographs["path"])
        np.testing.assert_array_equal(again.predict_proba(radiographs["path"]), expected)
        other = clone(original).set_params(classify__random_state=4).fit(radiographs["path"], radiographs["target"])
        assert not np.array_equal(other.predict_proba(radiographs["path"]), expected)

    def test_decisions_are_labels(self, original, radiographs):
        named = clone(original).fit(radiographs["path"], radiographs["label"])
        called = named.predict_proba(radiographs["path"])[:, 1] >= 0.5
        assert (named.predict(radiographs["path"]) == np.where(called, "pneumonia", "normal")).all()

    def test_weights_that_are_not_there(self, original, radiographs):
        lost = clone(original).set_params(classify__weights="nowhere.h5")
        with pytest.raises(WeightsUnavailableError, match=r"nowhere\.h5"):
            lost.fit(radiographs["path"], radiographs["target"])

    def test_a_comparison_goes_on_without_its_model_file(self, radiographs, tmp_path):
        (tmp_path / "small.py").write_text(
            "from cxr_sklearn.study.recipes import load_recipe\n"
            "def build(weights, random_state):\n"
            "    pipeline = load_recipe('original_study').build(weights=weights, random_state=random_state)\n"
            "    return pipeline.set_params(load__size=32, classify__epochs=1, classify__head_epochs=1)\n"
        )
        options = {"out": tmp_path / "run", "weights": "random", "store": tmp_path / "store", "cv": 2}
        with pytest.warns(UserWarning, match=r"the model of small is not kept: .*OriginalVGG16"):
            metrics = compare(radiographs, [tmp_path / "small.py"], threshold=0.5, **options)
        assert list(metrics["pipelines"]) == ["small", "shortcuts"]
        assert metrics["pipelines"]["small"]["threshold"]["value"] == 0.5
        assert [path.stem for path in (tmp_path / "run" / "models").iterdir()] == ["shortcuts"]


def test_a_file_edited_within_the_same_second_is_read_anew(tmp_path):
    path = tmp_path / "mine.py"
    text = (
        "from sklearn.linear_model import LogisticRegression\nfrom sklearn.pipeline import Pipeline\n\n\n"
        "def build():\n    return Pipeline([('classify', LogisticRegression(C={}))])\n"
    )
    for C in (0.1, 0.2):
        path.write_text(text.format(C))
        os.utime(path, (1_700_000_000, 1_700_000_000))
        assert load_recipe(path).build()["classify"].C == C
    assert list(tmp_path.iterdir()) == [path]  # and nothing is left beside it
