"""Recipes, one small file per approach, and the candidates of a run: recipes and estimators."""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from sklearn.base import BaseEstimator, clone
from sklearn.ensemble import StackingClassifier
from sklearn.model_selection import ParameterGrid
from sklearn.pipeline import Pipeline

from .._io import user_path
from .._validation import checks_types
from ..classifiers.resampling import BalancedClassifier
from ..exceptions import RecipeError
from ..images.loader import ImageLoader
from ..models._steps import networks_of, steps_of


@dataclass(frozen=True)
class Recipe:
    """A named way of building a pipeline, and the parameters worth searching.

    Attributes
    ----------
    name : str
        The file's name without its suffix.
    description : str
        First line of the file's docstring.
    """

    name: str
    description: str
    _module: ModuleType

    @property
    def param_grid(self) -> dict[str, list[Any]]:
        """The file's ``PARAM_GRID``, as :class:`sklearn.model_selection.GridSearchCV` takes it."""
        grid: dict[str, list[Any]] = getattr(self._module, "PARAM_GRID", {})
        return grid

    @property
    def on_request(self) -> bool:
        """Whether the file says ``ON_REQUEST = True``: the recipe is slow and only compared if it is named."""
        return bool(getattr(self._module, "ON_REQUEST", False))

    def takes(self, option: str) -> bool:
        """Whether the file's ``build`` accepts an option."""
        parameters = inspect.signature(self._module.build).parameters
        return option in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())

    def build(self, **options: Any) -> Pipeline:
        """Call the file's ``build`` with those options that it accepts: `store`, `weights`, `precision` and so on.

        Raises
        ------
        RecipeError
            If ``build`` fails or does not return a Pipeline that predicts probabilities and that PARAM_GRID fits.
        """
        known = {name: value for name, value in options.items() if self.takes(name)}
        try:
            pipeline = self._module.build(**known)
        except (Exception, SystemExit) as error:  # a recipe is the user's own code
            raise RecipeError(f"build() of recipe {self.name} failed: {type(error).__name__}: {error}") from error
        if not isinstance(pipeline, Pipeline):
            raise RecipeError(f"build() of recipe {self.name} must return a Pipeline, not {type(pipeline).__name__}")
        _check(f"the pipeline of recipe {self.name}", pipeline, self.param_grid)
        return pipeline


def recipes_folder() -> Path:
    """Return the folder of the shipped recipes: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "pipelines"
    return installed if installed.is_dir() else package.parent / "pipelines"


def recipe_names() -> list[str]:
    """Return the names of the shipped recipes, sorted."""
    return sorted(path.stem for path in recipes_folder().glob("*.py"))


def default_recipes() -> list[str]:
    """Return the names of the shipped recipes that are compared by default: all that are not on request."""
    return [name for name in recipe_names() if not load_recipe(name).on_request]


@checks_types
def load_recipe(name_or_path: str | os.PathLike[str]) -> Recipe:
    """Load a shipped recipe by name, or any recipe by the path of its file.

    Raises
    ------
    RecipeError
        If there is no such recipe, or its file cannot be run or has no ``build`` function.
    """
    text = os.fspath(name_or_path)
    path = user_path(text) if text.endswith(".py") else recipes_folder() / f"{text}.py"
    if not path.is_file():
        raise RecipeError(
            f"no recipe {text!r}; shipped are {', '.join(recipe_names())}, and your own is given by the path of its "
            ".py file"
        )
    module = ModuleType(f"cxr_sklearn_recipe_{path.stem}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses look their module up
    try:
        # An import would reuse compiled code of an earlier version that has the same size and time, to the second.
        exec(compile(path.read_bytes(), path, "exec"), vars(module))
    except (Exception, SystemExit) as error:  # a recipe is the user's own code
        raise RecipeError(f"{path} cannot be run: {type(error).__name__}: {error}") from error
    finally:
        del sys.modules[module.__name__]  # so that workers, which could not import it, get its classes by value
    if not callable(getattr(module, "build", None)):
        raise RecipeError(f"{path} defines no function build(store, weights, precision, random_state, checkpoint)")
    return Recipe(path.stem, (inspect.getdoc(module) or path.stem).splitlines()[0], module)


#: What names of pipelines may be: their models are files of these names.
_NAME = re.compile(rf"(?!\.)[^\x00-\x1f/{re.escape(os.sep)}]{{1,100}}")


@dataclass(frozen=True)
class Candidate:
    """An unfitted pipeline to compare, and the parameters worth searching.

    Attributes
    ----------
    name : str
    description : str
        For tables: the first line of a recipe, or the steps of a pipeline.
    pipeline : Pipeline
    param_grid : dict, or list of dict
        As :class:`sklearn.model_selection.GridSearchCV` takes it.
    balance : str
        How its training images are balanced, or "none".
    rebuild : callable or None
        For a recipe that takes `random_state`: from another one to the pipeline that the recipe builds with it.
    """

    name: str
    description: str
    pipeline: Pipeline
    param_grid: Any
    balance: str = "none"
    rebuild: Callable[[int], Pipeline] | None = field(default=None, compare=False, repr=False)

    def variants(self) -> list[Pipeline]:
        """Return the pipelines that differ in their parts, among those that a search tries; often this is just one."""
        grid = self.param_grid or {}
        parts = [
            {key: values for key, values in part.items() if any(isinstance(value, BaseEstimator) for value in values)}
            for part in ([grid] if isinstance(grid, Mapping) else grid)
        ]
        return [clone(self.pipeline).set_params(**chosen) for chosen in ParameterGrid(parts)]


def candidates_of(
    pipelines: Any, otherwise: Sequence[str], *, balance: str = "none", **options: Any
) -> list[Candidate]:
    """Build the candidates of a run.

    Parameters
    ----------
    pipelines : str, path or estimator; sequence of str or path; mapping; or None
        Names of shipped recipes or paths of recipe files. A mapping from names for the report may also hold
        estimators, and pairs of an estimator and its parameter grid.
    otherwise : sequence of str
        The recipes to take for None.
    balance : str
        The method of :class:`BalancedClassifier`.
    **options
        For the recipes; estimators keep their own.

    Raises
    ------
    RecipeError
        If a recipe cannot be loaded or built, an estimator cannot be used, or two have the same name.
    """
    if isinstance(pipelines, str | os.PathLike):
        pipelines = [pipelines]
    elif hasattr(pipelines, "fit") and not isinstance(pipelines, type):
        pipelines = {"pipeline": pipelines}
    if not (pipelines is None or isinstance(pipelines, Iterable)) or isinstance(pipelines, type):
        raise RecipeError(f"pipelines={pipelines!r} must be recipes, or estimators in a dict, {{'mine': pipeline}}")
    if not isinstance(pipelines, Mapping):
        loaded = [_recipe_named(item) for item in (otherwise if pipelines is None else pipelines)]
        if len({recipe.name for recipe in loaded}) < len(loaded):
            raise RecipeError("two recipes have the same name; rename one of the files")
        pipelines = {recipe.name: recipe for recipe in loaded}
    if not pipelines:
        raise RecipeError("there is no pipeline; give a recipe, or estimators in a dict, {'mine': pipeline}")
    if odd := [name for name in pipelines if not (isinstance(name, str) and _NAME.fullmatch(name))
               or len(os.fsencode(name)) > 200]:  # fmt: skip
        raise RecipeError(
            f"{odd[0]!r} cannot be the name of a pipeline, because its model file has this name; use at most 100 "
            "characters that a file name may have"
        )
    built = [_built(name, source, balance, options) for name, source in pipelines.items()]
    if (precision := options.get("precision", "auto")) != "auto":
        networks = [network for candidate in built for network in networks_of(candidate.pipeline)]
        if precision not in [network.precision for network in networks]:
            raise RecipeError(
                f"precision={precision!r} is for frozen networks, and {', '.join(pipelines)} has no such network that "
                "takes it"
            )
    return built


def _built(name: str, source: Any, balance: str, options: dict[str, Any]) -> Candidate:
    source = load_recipe(source) if isinstance(source, str | os.PathLike) else source
    candidate = balanced(_candidate(name, source, options), balance, options.get("random_state"))
    if isinstance(source, Recipe) and source.takes("random_state"):
        return replace(candidate, rebuild=partial(_rebuilt, name, source, balance, options))
    return candidate


def _rebuilt(name: str, source: Recipe, balance: str, options: dict[str, Any], random_state: int) -> Pipeline:
    return _built(name, source, balance, {**options, "random_state": random_state}).pipeline


def _recipe_named(item: Any) -> Recipe:
    if not isinstance(item, str | os.PathLike):
        raise RecipeError(f"{type(item).__name__} has no name; give estimators in a dict, {{'mine': pipeline}}")
    return load_recipe(item)


def _candidate(name: str, source: Any, options: dict[str, Any]) -> Candidate:
    if isinstance(source, Recipe):
        return Candidate(name, source.description, source.build(**options), source.param_grid)
    estimator, grid = source if isinstance(source, tuple) and len(source) == 2 else (source, {})
    grid = grid or {}
    if not isinstance(estimator, BaseEstimator):
        raise RecipeError(
            f"{name} must be a recipe, an estimator or a pair of an estimator and its grid, not {type(source).__name__}"
        )
    description = ", ".join(type(step).__name__ for step in steps_of(estimator)) + "."
    if not isinstance(estimator, Pipeline):  # the rest of the study deals only with pipelines
        estimator = Pipeline([("model", estimator)])
        grid = _renamed(grid, lambda key: f"model__{key}")
    _check(f"the pipeline {name}", estimator, grid)
    return Candidate(name, description, clone(estimator), grid)


def _check(what: str, pipeline: Pipeline, grid: Any) -> None:
    last = steps_of(pipeline)[-1]
    # Unfitted, it does not know yet that its default final estimator gives probabilities.
    stacks = isinstance(last, StackingClassifier) and last.final_estimator is None
    if not hasattr(pipeline, "predict_proba") and not stacks:
        raise RecipeError(f"{what} has no predict_proba; end it in a probabilistic classifier")
    try:
        for candidate in ParameterGrid(grid or {}):
            clone(pipeline).set_params(**candidate)
    except (ValueError, TypeError, AttributeError) as error:
        raise RecipeError(f"the parameter grid of {what} does not fit it: {error}") from error


def _renamed(grid: Any, rename: Callable[[str], str]) -> Any:
    if isinstance(grid, Mapping):
        return {rename(key): values for key, values in grid.items()}
    return [_renamed(part, rename) for part in grid]


def balanced(candidate: Candidate, method: str, random_state: int | None) -> Candidate:
    """Wrap the last step of a pipeline in a :class:`BalancedClassifier`, and rename the searched parameters to match.

    For "augment", which draws views of images, all steps after the ImageLoader are wrapped; a pipeline without one
    stays unchanged.
    """
    steps = candidate.pipeline.steps
    first = len(steps) - 1
    if method == "augment":
        first = next((i + 1 for i, (_, step) in enumerate(steps) if isinstance(step, ImageLoader)), 0)
    if method == "none" or (first == 0 and method == "augment"):
        return candidate
    rest = [(name, step if step in (None, "passthrough") else clone(step)) for name, step in steps[first:]]
    # Classes would be weighted twice.
    last = rest[-1][1]
    last.set_params(**{key: None for key in last.get_params() if key.split("__")[-1] == "class_weight"})
    is_one = len(rest) == 1
    name = rest[0][0] if is_one else "balanced"
    wrapped = BalancedClassifier(rest[0][1] if is_one else Pipeline(rest), method, random_state=random_state)

    def rename(key: str) -> str:
        step, _, parameter = key.partition("__")
        if step not in dict(rest):
            return key
        return "__".join(part for part in (name, "estimator", "" if is_one else step, parameter) if part)

    return replace(
        candidate,
        pipeline=Pipeline([*steps[:first], (name, wrapped)]),
        param_grid=_renamed(candidate.param_grid, rename),
        balance=method,
    )
