"""How many patients it takes: ROC AUC on held-out images against the number of training patients."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import ParameterGrid

from ..embedder import FrozenEmbedder
from ..exceptions import DataError, InputError
from ..files import replacing
from ..progress import progress_bar
from ..recipes import Recipe, load_recipe, recipe_names
from .anatomy import embed_all
from .search import fit, patient_folds, scores_of, search
from .thresholds import MIN_IMAGES_PER_CLASS

COLUMNS = ["pipeline", "weights", "source", "images", "patients", "repeat", "roc_auc"]
SMALLEST = 30
_FOLDS = 4


def learning_curve(
    frame: pd.DataFrame,
    pipelines: Sequence[str | os.PathLike[str]] | None = None,
    *,
    out: str | os.PathLike[str],
    weights: str | os.PathLike[str] = "imagenet",
    store: str | os.PathLike[str] | None = "auto",
    n_repeats: int = 10,
    random_state: int = 0,
    verbose: int = 0,
) -> pd.DataFrame:
    """Fit pipelines on 30, 60, 120, ... and all training patients, and measure them on others.

    The parameters of each are searched once, on all training patients. Patients are drawn by class, and the draws of
    one repeat contain each other. The AUC is taken on the validation split, or, where that has fewer than 30 images of
    either class, on a quarter of the training patients that no fit gets to see.

    Parameters
    ----------
    frame : DataFrame
        As :func:`load_folder` returns it.
    pipelines : sequence of str or path, or None
        Recipes; None takes the shipped ones on frozen features, whose images are embedded once for all fits.
    out : path
        Folder for ``learning_curve.csv``; that of a `compare` run will show it in its report.
    weights, store
        Passed to the recipes.
    n_repeats : int, default=10
        Draws of patients of each number.
    random_state : int, default=0
    verbose : int, default=0
        1 shows progress bars.

    Returns
    -------
    DataFrame
        One row per fit: pipeline, weights, source ("val" or "held-out"), images (measured on), patients, repeat and
        roc_auc.

    Raises
    ------
    DataError
        If there are fewer than 30 training patients, or too few of a class.
    """
    if n_repeats < 1:
        raise InputError(f"n_repeats={n_repeats} must be at least 1")
    train, measured, source = _parts(frame, random_state)
    sizes = _sizes(train["patient"].nunique())
    options = {"weights": weights, "store": store, "random_state": random_state}
    recipes = [load_recipe(name) for name in pipelines or frozen_recipes()]
    tables = []
    for recipe in recipes:
        facts = embed_all(recipe.build(**options), pd.concat([train, measured]), verbose)
        tables.append(_curve(recipe, options, train, measured, sizes, n_repeats, verbose).assign(
            weights=", ".join(sorted({backbone["weights"] for backbone in facts["backbones"]})), source=source
        ))  # fmt: skip
    table = pd.concat(tables)[COLUMNS]
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / "learning_curve.csv") as draft:
        table.to_csv(draft, index=False, float_format="%.9g")
    return table


def frozen_recipes() -> list[str]:
    """Names of the shipped recipes whose features come from a frozen network."""
    return [
        name
        for name in recipe_names()
        if any(isinstance(step, FrozenEmbedder) for step in load_recipe(name).build().get_params().values())
    ]


def _parts(frame: pd.DataFrame, random_state: int) -> tuple[pd.DataFrame, pd.DataFrame, str]:
    train, val = (frame[frame["split"] == split] for split in ("train", "val"))
    if min((val["target"] == label).sum() for label in (0, 1)) >= MIN_IMAGES_PER_CLASS:
        return train, val, "val"
    if train.empty:
        raise DataError("there are no images in the train split")
    rows, held_out = patient_folds(train, _FOLDS, random_state)[0]
    return train.iloc[rows], train.iloc[held_out], "held-out"


def _sizes(n_patients: int) -> list[int]:
    if n_patients < SMALLEST:
        raise DataError(f"{n_patients} training patients are too few for a learning curve; it starts at {SMALLEST}")
    sizes = [SMALLEST]
    # The last step to all patients is no smaller than half of a doubling.
    while sizes[-1] * 2 <= n_patients / 1.5:
        sizes.append(sizes[-1] * 2)
    return [*sizes, n_patients] if n_patients > sizes[-1] else sizes


def _curve(
    recipe: Recipe,
    options: dict[str, Any],
    train: pd.DataFrame,
    measured: pd.DataFrame,
    sizes: list[int],
    n_repeats: int,
    verbose: int,
) -> pd.DataFrame:
    candidates = list(ParameterGrid(recipe.param_grid or {}))
    pipeline = recipe.build(**options)
    splits = patient_folds(train, _FOLDS, options["random_state"])
    draws = [(n, repeat) for n in sizes for repeat in range(1 if n == sizes[-1] else n_repeats)]
    n_searched = len(candidates) * len(splits) if len(candidates) > 1 else 0
    rows = []
    with progress_bar(f"Learning curve, {recipe.name}", n_searched + len(draws), show=verbose > 0) as advance:
        if n_searched:
            best, _ = search(pipeline, candidates, train, splits, n_jobs=None, advance=advance)
            pipeline.set_params(**best)
        for n, repeat in draws:
            drawn = _draw(train, n, options["random_state"] + repeat)
            auc = roc_auc_score(measured["target"], scores_of(fit(pipeline, drawn), measured))
            rows.append((recipe.name, len(measured), n, repeat, auc))
            advance(1)
    return pd.DataFrame(rows, columns=["pipeline", "images", "patients", "repeat", "roc_auc"])


def _draw(train: pd.DataFrame, n: int, random_state: int) -> pd.DataFrame:
    """Draw `n` patients, each class by its share; a larger draw of the same seed contains the smaller one."""
    labels = train.groupby("patient")["target"].first()
    shuffled = labels.sample(frac=1, random_state=random_state)
    n_pneumonia = min(max(round(n * labels.mean()), 2), n - 2)
    taken = [
        part.index[:size]
        for part, size in ((shuffled[shuffled == 1], n_pneumonia), (shuffled[shuffled == 0], n - n_pneumonia))
    ]
    return train[train["patient"].isin(taken[0].append(taken[1]))]


def read_learning_curve(path: Path) -> pd.DataFrame | None:
    """Read ``learning_curve.csv`` back; None where there is none.

    Raises
    ------
    DataError
        If it lacks a column.
    """
    if not path.is_file():
        return None
    table = pd.read_csv(path, dtype={"pipeline": "str", "weights": "str", "source": "str"}, keep_default_na=False)
    if missing := [name for name in COLUMNS if name not in table]:
        raise DataError(f"{path} lacks the columns {missing}; `cxr-sklearn learning-curve` writes it anew")
    return table


def learning_facts(table: pd.DataFrame) -> dict[str, Any]:
    """Return mean and range of the AUC for each pipeline and number of patients, as metrics.json has them."""
    pipelines = {}
    for name, rows in table.groupby("pipeline", sort=False):
        by_size = rows.groupby("patients")["roc_auc"]
        points = pd.DataFrame({"mean": by_size.mean(), "low": by_size.min(), "high": by_size.max()}).reset_index()
        pipelines[str(name)] = {"weights": rows["weights"].iloc[0], "points": points.to_dict("records")}
    return {
        "images": int(table["images"].iloc[0]),
        "source": table["source"].iloc[0],
        "repeats": int(table["repeat"].max()) + 1,
        "pipelines": pipelines,
    }
