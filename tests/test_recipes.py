import pytest
from sklearn.model_selection import ParameterGrid
from sklearn.pipeline import Pipeline

from cxr_sklearn.exceptions import CXRError, RecipeError
from cxr_sklearn.recipes import load_recipe, recipe_names

OWN = '''"""My own approach.

More words.
"""
from sklearn.dummy import DummyClassifier
from sklearn.pipeline import Pipeline

def build(random_state=None):
    return Pipeline([("classify", DummyClassifier(random_state=random_state))])
'''


def test_shipped_recipes():
    assert recipe_names() == ["scratch_cnn", "shortcuts", "vgg16_finetuned", "vgg16_logistic", "vgg16_mlp"]


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
    if name.startswith("vgg16"):
        assert options["weights"] == "random"
    if "store" in options:
        assert options["store"] is None


@pytest.mark.parametrize("name", [name for name in recipe_names() if load_recipe(name).takes("balance")])
def test_balance_reaches_the_classifier(name):
    pipeline = load_recipe(name).build(balance="undersample", random_state=3)
    assert pipeline["classify"].method == "undersample"
    assert pipeline["classify"].random_state == 3
    assert load_recipe(name).build()["classify"].method == "none"


def test_what_a_recipe_takes(tmp_path):
    (tmp_path / "any.py").write_text(
        OWN.replace("random_state=None", "**options").replace("=random_state", "=options.pop('random_state')")
    )
    assert not load_recipe(tmp_path / "any.py").takes("balance")  # nobody knows what it makes of it
    load_recipe(tmp_path / "any.py").build(random_state=3, balance="weights")  # and is not given what cannot be told
    assert load_recipe("vgg16_logistic").takes("balance")
    assert not load_recipe("shortcuts").takes("balance")


def test_a_recipe_of_ones_own(tmp_path):
    (tmp_path / "mine.py").write_text(OWN)
    recipe = load_recipe(tmp_path / "mine.py")
    assert (recipe.name, recipe.description, recipe.param_grid) == ("mine", "My own approach.", {})
    assert recipe.build(store=None, weights="random", random_state=5)["classify"].random_state == 5


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("absent", None, "shipped are scratch_cnn, shortcuts"),
        ("absent.py", None, "no recipe"),
        ("empty.py", "", "defines no function build"),
        ("broken.py", "import nothing_of_the_kind", "cannot be run: ModuleNotFoundError"),
        ("other.py", "def build():\n    return 3", "must return a Pipeline, not int"),
        ("fails.py", "def build():\n    1 / 0", "failed: ZeroDivisionError"),
        ("leaves.py", "import sys\nsys.exit(0)", "cannot be run: SystemExit"),
        ("grid.py", OWN + "\nPARAM_GRID = {'classify__C': [1]}", "PARAM_GRID of recipe grid does not fit"),
        ("kind.py", OWN + "\nPARAM_GRID = {'classify__strategy': 5}", "PARAM_GRID of recipe kind does not fit"),
        ("deep.py", OWN + "\nPARAM_GRID = {'classify__strategy__x': [5]}", "PARAM_GRID of recipe deep does not fit"),
        ("svm.py", OWN.replace("dummy", "svm").replace("DummyClassifier", "LinearSVC"), "has no predict_proba"),
    ],
)
def test_recipes_that_cannot_be_used(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(RecipeError, match=message) as caught:
        load_recipe(tmp_path / name if name.endswith(".py") else name).build()
    assert isinstance(caught.value, CXRError | ValueError)
