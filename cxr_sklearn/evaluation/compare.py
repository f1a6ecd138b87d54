"""The main job: the same images, folds and rules for every pipeline, and one table of scores to judge them by."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import skops.io
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, ParameterGrid, StratifiedGroupKFold
from sklearn.pipeline import Pipeline

from ..embedder import FrozenEmbedder
from ..exceptions import DataError, RecipeError
from ..progress import progress_bar
from ..recipes import Recipe, load_recipe, recipe_names
from .scores import merge_facts, read_scores, summarise, write_scores

Splits = list[tuple[np.ndarray, np.ndarray]]


def compare(
    frame: pd.DataFrame,
    pipelines: Sequence[str | os.PathLike[str]] | None = None,
    *,
    out: str | os.PathLike[str],
    weights: str | os.PathLike[str] = "imagenet",
    store: str | os.PathLike[str] | None = "auto",
    cv: int = 5,
    n_jobs: int | None = None,
    random_state: int = 0,
    verbose: int = 0,
) -> dict[str, Any]:
    """Compare pipelines on the same images, folds and rules, and write a report.

    Every image is embedded once, before any search starts. Then, for each pipeline: a grid search on the training
    images by stratified folds that keep a patient together, scored by ROC AUC; out-of-fold scores of the best
    candidate; a refit on all training images; a threshold from the validation images, or from the out-of-fold scores
    where those are too few; and one look at the test images.

    Parameters
    ----------
    frame : DataFrame
        As :func:`load_folder` returns it; `path`, `target`, `split` and `patient` are used.
    pipelines : sequence of str or path, or None
        Names of shipped recipes or paths of recipe files; None takes all that are shipped.
    out : path
        Folder for ``scores.csv``, ``metrics.json``, ``report.html`` and ``models/``; created if need be.
    weights, store
        Passed to the recipes, and by them to :class:`FrozenEmbedder`.
    cv : int, default=5
        Number of folds.
    n_jobs : int or None, default=None
        Processes for the grid search.
    random_state : int, default=0
        Seed of folds and estimators.
    verbose : int, default=0
        1 shows progress bars.

    Returns
    -------
    dict
        The content of ``metrics.json``.

    Raises
    ------
    DataError
        If a split or a class is missing, or a class has fewer training patients than folds.
    RecipeError
        If a recipe cannot be used.
    ImageReadError
        If images cannot be read; the features of all others are in the store by then.
    WeightsUnavailableError
        If the weights of a backbone are neither here nor to be had.
    """
    from ..report.page import write_report  # matplotlib is wanted only once there is something to show

    recipes = [load_recipe(name) for name in pipelines or recipe_names()]
    options = {"store": store, "weights": weights, "random_state": random_state}
    built = {recipe.name: (recipe, recipe.build(**options)) for recipe in recipes}
    if len(built) < len(recipes):
        raise RecipeError("two recipes have the same name; rename one of the files")
    check_splits(frame, cv)
    folder = Path(out)
    (folder / "models").mkdir(parents=True, exist_ok=True)

    facts: dict[str, Any] = {"pipelines": {}, "data": _describe_data(frame), "run": _describe_run(random_state, cv)}
    for name, (recipe, pipeline) in built.items():
        facts["pipelines"][name] = {"description": recipe.description, **_embed_all(pipeline, frame, verbose)}
    train = frame[frame["split"] == "train"]
    folds = StratifiedGroupKFold(cv, shuffle=True, random_state=random_state)
    splits = list(folds.split(train["path"], train["target"], train["patient"]))
    scores = []
    for name, (recipe, pipeline) in built.items():
        result, model, found = _evaluate(recipe, pipeline, frame, splits, n_jobs, verbose)
        facts["pipelines"][name]["best_params"] = found["best_params"]
        facts["pipelines"][name]["seconds"] |= found["seconds"]
        skops.io.dump(model, folder / "models" / f"{name}.skops")
        scores.append(result)
        write_scores(pd.concat(scores), folder / "scores.csv")  # after each pipeline: a later failure costs no more
    return write_results(folder, facts, write_report)


def write_results(folder: Path, facts: dict[str, Any], write_report: Callable[..., None]) -> dict[str, Any]:
    """Compute metrics.json from scores.csv and render the report."""
    scores = read_scores(folder / "scores.csv")
    metrics = merge_facts(summarise(scores), facts)
    text = json.dumps(metrics, indent=2, default=_plain)
    (folder / "metrics.json").write_text(text + "\n")
    metrics = json.loads(text)  # what is returned and shown is what is kept
    write_report(metrics, scores, folder / "report.html")
    return metrics


def check_splits(frame: pd.DataFrame, cv: int) -> None:
    """Refuse a table that cannot be compared on, with the reason.

    Raises
    ------
    DataError
        If train or test lacks a class, or a class has fewer training patients than folds.
    """
    classes = ((0, "normal"), (1, "pneumonia"))
    for split in ("train", "test"):
        for target, label in classes:
            if not ((frame["split"] == split) & (frame["target"] == target)).any():
                raise DataError(f"there are no {label} images in the {split} split; both splits need both classes")
    train = frame[frame["split"] == "train"]
    for target, label in classes:
        n = train[train["target"] == target]["patient"].nunique()
        if n < cv:
            raise DataError(
                f"{n} {label} patients in the train split are too few for {cv} folds; add images or ask for fewer folds"
            )


def _embed_all(pipeline: Pipeline, frame: pd.DataFrame, verbose: int) -> dict[str, Any]:
    """Fill the store with the features of every image, and say with what and in how many seconds."""
    cached = [i for i, (_, step) in enumerate(pipeline.steps) if "store" in step.get_params(deep=False)]
    if not cached:
        return {"embedder": None, "seconds": {"embedding": 0.0}}
    start = time.perf_counter()
    prefix = clone(pipeline[: cached[-1] + 1])
    for i in cached:
        prefix[i].set_params(verbose=verbose)
    prefix.fit(frame["path"].iloc[:1]).transform(frame["path"])
    seconds = {"embedding": time.perf_counter() - start}
    last = prefix[-1]
    if not isinstance(last, FrozenEmbedder):
        return {"embedder": None, "seconds": seconds}
    facts = {
        "backbone": last.backbone,
        "layer": last.layer,
        "pooling": last.pooling,
        "weights": last.weights if last.weights in ("imagenet", "random") else Path(last.weights).name,
        "weights_id": last.weights_id_,
        "precision": last.precision_,
        "n_embedded": last.n_embedded_,
        "n_cached": last.n_cached_,
    }
    return {"embedder": facts, "seconds": seconds}


def _evaluate(
    recipe: Recipe, pipeline: Pipeline, frame: pd.DataFrame, splits: Splits, n_jobs: int | None, verbose: int
) -> tuple[pd.DataFrame, Pipeline, dict[str, Any]]:
    """Search, cross-validate and refit on train, then score val and test."""
    start = time.perf_counter()
    train = frame[frame["split"] == "train"]
    best_params = _search(recipe, pipeline, train, splits, n_jobs, verbose)
    best = clone(pipeline).set_params(**best_params)
    parts = []
    with progress_bar(f"Cross-validating {recipe.name}", len(splits) + 1, show=verbose > 0) as advance:
        for fold, (rows, held_out) in enumerate(splits):
            model = clone(best).fit(train["path"].iloc[rows], train["target"].iloc[rows])
            parts.append(_score(model, train.iloc[held_out], recipe.name, fold))
            advance(1)
        model = best.fit(train["path"], train["target"])
        advance(1)
    fitted = time.perf_counter()
    parts += [_score(model, part, recipe.name) for split in ("val", "test")
              if len(part := frame[frame["split"] == split])]  # fmt: skip
    seconds = {"fitting": fitted - start, "scoring": time.perf_counter() - fitted}
    return pd.concat(parts), model, {"best_params": best_params, "seconds": seconds}


def _search(
    recipe: Recipe, pipeline: Pipeline, train: pd.DataFrame, splits: Splits, n_jobs: int | None, verbose: int
) -> dict[str, Any]:
    candidates = list(ParameterGrid(recipe.param_grid or {}))
    if len(candidates) == 1:
        return dict(candidates[0])
    search = GridSearchCV(pipeline, recipe.param_grid, scoring="roc_auc", cv=splits, n_jobs=n_jobs, refit=False)
    if verbose > 0 and sys.stdout.isatty() and hasattr(search, "set_callbacks"):  # scikit-learn 1.9
        from sklearn.callback import ProgressBar

        search.set_callbacks(ProgressBar(max_propagation_depth=0))
    search.fit(train["path"], train["target"])
    best: dict[str, Any] = search.best_params_
    return best


def _score(model: Pipeline, rows: pd.DataFrame, name: str, fold: int | None = None) -> pd.DataFrame:
    if not hasattr(model, "predict_proba"):
        raise RecipeError(f"the pipeline of recipe {name} has no predict_proba; end it in a probabilistic classifier")
    positive = list(model.classes_).index(1)
    return pd.DataFrame(
        {
            "path": rows["path"],
            "patient": rows["patient"],
            "split": rows["split"],
            "fold": pd.array([fold] * len(rows), dtype="Int64"),
            "pipeline": name,
            "target": rows["target"],
            "score": model.predict_proba(rows["path"])[:, positive].astype(np.float64),
        }
    )


def _describe_data(frame: pd.DataFrame) -> dict[str, Any]:
    def count(rows: pd.DataFrame) -> dict[str, int]:
        n_pneumonia = int(rows["target"].sum())
        return {
            "images": len(rows),
            "patients": int(rows["patient"].nunique()),
            "normal": len(rows) - n_pneumonia,
            "pneumonia": n_pneumonia,
        }

    splits = {split: count(frame[frame["split"] == split]) for split in ("train", "val", "test")}
    return {**count(frame[frame["split"].isin(list(splits))]), "splits": splits}


def _describe_run(random_state: int, cv: int) -> dict[str, Any]:
    packages = ("cxr-sklearn", "scikit-learn", "keras", "tensorflow", "numpy", "pillow")
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "random_state": random_state,
        "folds": cv,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
    }


def _plain(value: Any) -> Any:
    """Write NumPy scalars, paths and whatever else a parameter grid may hold as JSON."""
    return value.item() if isinstance(value, np.generic) else str(value)
