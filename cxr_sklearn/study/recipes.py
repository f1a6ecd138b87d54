"""Recipes: one small file per approach, found by name among the shipped ones or by path."""

from __future__ import annotations

import importlib.util
import inspect
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from sklearn.base import clone
from sklearn.model_selection import ParameterGrid
from sklearn.pipeline import Pipeline

from ..exceptions import RecipeError


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
        """Whether the file says ``ON_REQUEST = True``: it takes long, and is compared only where it is named."""
        return bool(getattr(self._module, "ON_REQUEST", False))

    def takes(self, option: str) -> bool:
        """Whether the file's ``build`` has a parameter of that name, or takes any; `balance` must be named."""
        parameters = inspect.signature(self._module.build).parameters
        takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        # A report says which recipes were balanced, and whoever takes any option may well ignore this one.
        return option in parameters or (takes_any and option != "balance")

    def build(self, **options: Any) -> Pipeline:
        """Call the file's ``build`` with those of `options` that it has parameters for.

        Parameters
        ----------
        **options
            ``store``, ``weights``, ``random_state``, ``balance`` and ``checkpoint``.

        Raises
        ------
        RecipeError
            If it fails, does not return a Pipeline that can predict probabilities, or PARAM_GRID does not fit that.
        """
        known = {name: value for name, value in options.items() if self.takes(name)}
        try:
            pipeline = self._module.build(**known)
        except (Exception, SystemExit) as error:  # a recipe is the user's own code
            raise RecipeError(f"build() of recipe {self.name} failed: {type(error).__name__}: {error}") from error
        if not isinstance(pipeline, Pipeline):
            raise RecipeError(f"build() of recipe {self.name} must return a Pipeline, not {type(pipeline).__name__}")
        if not hasattr(pipeline, "predict_proba"):
            raise RecipeError(
                f"the pipeline of recipe {self.name} has no predict_proba; end it in a probabilistic classifier"
            )
        try:
            for candidate in ParameterGrid(self.param_grid or {}):
                clone(pipeline).set_params(**candidate)
        except (ValueError, TypeError, AttributeError) as error:
            raise RecipeError(f"PARAM_GRID of recipe {self.name} does not fit its pipeline: {error}") from error
        return pipeline


def recipes_folder() -> Path:
    """Folder of the shipped recipes: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "pipelines"
    return installed if installed.is_dir() else package.parent / "pipelines"


def recipe_names() -> list[str]:
    """Names of the shipped recipes, sorted."""
    return sorted(path.stem for path in recipes_folder().glob("*.py"))


def default_recipes() -> list[str]:
    """Names of the shipped recipes that are compared where none is named: all that are not on request."""
    return [name for name in recipe_names() if not load_recipe(name).on_request]


def load_recipe(name_or_path: str | os.PathLike[str]) -> Recipe:
    """Load a shipped recipe by name, or any recipe by the path of its file.

    Raises
    ------
    RecipeError
        If there is no such recipe, or its file cannot be run or has no ``build`` function.
    """
    text = os.fspath(name_or_path)
    path = Path(text) if text.endswith(".py") else recipes_folder() / f"{text}.py"
    if not path.is_file():
        raise RecipeError(
            f"no recipe {text!r}; shipped are {', '.join(recipe_names())}, and your own is given by the path of its "
            ".py file"
        )
    spec = importlib.util.spec_from_file_location(f"cxr_sklearn_recipe_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise RecipeError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # a recipe is the user's own code
        raise RecipeError(f"{path} cannot be run: {type(error).__name__}: {error}") from error
    if not callable(getattr(module, "build", None)):
        raise RecipeError(f"{path} defines no function build(store, weights, random_state, balance, checkpoint)")
    return Recipe(path.stem, (inspect.getdoc(module) or path.stem).splitlines()[0], module)


def load_recipes(
    pipelines: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None, otherwise: Sequence[str]
) -> list[Recipe]:
    """Load recipes by name or path, or others where none are named.

    Raises
    ------
    RecipeError
        If one cannot be loaded, or two have the same name.
    """
    if isinstance(pipelines, str | os.PathLike):
        pipelines = [pipelines]
    recipes = [load_recipe(name) for name in pipelines or otherwise]
    if len({recipe.name for recipe in recipes}) < len(recipes):
        raise RecipeError("two recipes have the same name; rename one of the files")
    return recipes
