"""The main job: the same images, folds and rules for every pipeline, and one table of scores to judge them by."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Sequence
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

from ..backbones import resolve_precision, weights_identity
from ..embedder import FrozenEmbedder
from ..exceptions import DataError, RecipeError
from ..files import replacing
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
    recipes = [load_recipe(name) for name in pipelines or recipe_names()]
    options = {"store": store, "weights": weights, "random_state": random_state}
    built = {recipe.name: (recipe, recipe.build(**options)) for recipe in recipes}
    if len(built) < len(recipes):
        raise RecipeError("two recipes have the same name; rename one of the files")
    check_splits(frame, cv)
    folds = _folds(frame, cv, random_state)
    folder = Path(out)
    (folder / "models").mkdir(parents=True, exist_ok=True)

    facts: dict[str, Any] = {"pipelines": {}, "data": _describe_data(frame), "run": _describe_run(random_state, cv)}
    for name, (recipe, pipeline) in built.items():
        facts["pipelines"][name] = {"description": recipe.description, **_embed_all(pipeline, frame, verbose)}
    scores: list[pd.DataFrame] = []
    for name, (recipe, pipeline) in built.items():
        result, model, found = _evaluate(recipe, pipeline, frame, folds, n_jobs, verbose)
        facts["pipelines"][name]["best_params"] = found["best_params"]
        facts["pipelines"][name]["seconds"] |= found["seconds"]
        with replacing(folder / "models" / f"{name}.skops") as draft:
            skops.io.dump(model, draft)
        scores.append(result)
        # After each pipeline: a later failure costs no more than itself.
        if len(scores) == 1:
            (folder / "metrics.json").unlink(missing_ok=True)  # the facts of an earlier run do not fit these scores
        write_scores(pd.concat(scores), folder / "scores.csv")
        metrics = write_results(folder, facts)
    return metrics


def write_results(folder: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """Compute metrics.json from scores.csv and render the report."""
    from ..report.page import write_report  # matplotlib is wanted only once there is something to show

    scores = read_scores(folder / "scores.csv")
    text = json.dumps(merge_facts(summarise(scores), facts), indent=2, default=_plain)
    with replacing(folder / "metrics.json") as draft:
        draft.write_text(text + "\n", encoding="utf-8")
    metrics: dict[str, Any] = json.loads(text)  # what is returned and shown is what is kept
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


def _folds(frame: pd.DataFrame, cv: int, random_state: int) -> Splits:
    """Stratified folds of whole patients, as positions among the training images."""
    train = frame[frame["split"] == "train"]
    folds = StratifiedGroupKFold(cv, shuffle=True, random_state=random_state)
    splits = list(folds.split(train["path"], train["target"], train["patient"]))
    for rows in (rows for split in splits for rows in split):
        if train["target"].iloc[rows].nunique() < 2:
            raise DataError(
                f"{cv} folds of whole patients leave one without both classes; add patients or ask for fewer folds"
            )
    return splits


def _embed_all(pipeline: Pipeline, frame: pd.DataFrame, verbose: int) -> dict[str, Any]:
    """Fill the store with the features of every image, and say with what and in how many seconds."""
    stored = [i for i, (_, step) in enumerate(pipeline.steps[:-1]) if _stores(step)]
    facts: dict[str, Any] = {"embedders": [], "n_embedded": None, "n_cached": None, "seconds": {"embedding": 0.0}}
    if not stored:
        return facts
    prefix = clone(pipeline[: stored[-1] + 1])
    names = prefix.get_params()
    prefix.set_params(
        **{name: verbose for name in names if name.endswith("__verbose") and f"{name[:-7]}store" in names}
    )
    start = time.perf_counter()
    prefix.fit(frame["path"].iloc[:1]).transform(frame["path"])
    facts["seconds"]["embedding"] = time.perf_counter() - start
    facts["embedders"] = [_describe_embedder(step) for step in names.values() if isinstance(step, FrozenEmbedder)]
    if isinstance(prefix[-1], FrozenEmbedder):
        facts |= {"n_embedded": prefix[-1].n_embedded_, "n_cached": prefix[-1].n_cached_}
    return facts


def _stores(step: Any) -> bool:
    return hasattr(step, "get_params") and any(name.split("__")[-1] == "store" for name in step.get_params())


def _describe_embedder(embedder: FrozenEmbedder) -> dict[str, Any]:
    named = embedder.weights in ("imagenet", "random")
    return {
        "backbone": embedder.backbone,
        "layer": embedder.layer,
        "pooling": embedder.pooling,
        "weights": embedder.weights if named else Path(embedder.weights).name,
        "weights_id": weights_identity(embedder.backbone, embedder.weights),
        "precision": resolve_precision(embedder.precision),
    }


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
