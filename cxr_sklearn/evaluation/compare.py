"""The main job: the same images, folds and rules for every pipeline, and one table of scores to judge them by."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import skops.io
from sklearn.model_selection import ParameterGrid, StratifiedGroupKFold
from sklearn.pipeline import Pipeline

from ..exceptions import DataError, InputError, RecipeError
from ..files import replacing
from ..progress import progress_bar
from ..recipes import Recipe, load_recipe, recipe_names
from ..resampling import METHODS
from .anatomy import backbones_of, embed_all, last_classifier, training_of
from .diagnosis import diagnose
from .scores import merge_facts, read_scores, summarise, write_scores
from .search import Splits, fit, scores_of, search
from .training import read_training, write_training


def compare(
    frame: pd.DataFrame,
    pipelines: Sequence[str | os.PathLike[str]] | None = None,
    *,
    out: str | os.PathLike[str],
    weights: str | os.PathLike[str] = "imagenet",
    store: str | os.PathLike[str] | None = "auto",
    balance: str = "none",
    cv: int = 5,
    n_jobs: int | None = None,
    random_state: int = 0,
    verbose: int = 0,
) -> dict[str, Any]:
    """Compare pipelines on the same images, folds and rules, and write a report.

    Every image is embedded once, before any search starts. Then, for each pipeline: a grid search on the training
    images by stratified folds that keep a patient together, scored by ROC AUC; out-of-fold scores of the best
    candidate; a refit on all training images; a threshold from the validation images, or from the out-of-fold scores
    where those are too few; and one look at the test images. A classifier that trains a network holds some of its
    training patients out for early stopping.

    Parameters
    ----------
    frame : DataFrame
        As :func:`load_folder` returns it; `path`, `target`, `split` and `patient` are used.
    pipelines : sequence of str or path, or None
        Names of shipped recipes or paths of recipe files; None takes all that are shipped.
    out : path
        Folder for ``scores.csv``, ``metrics.json``, ``training.csv``, ``report.html`` and ``models/``; created if need
        be.
    weights, store
        Passed to the recipes, and by them to :class:`FrozenEmbedder` and :class:`FineTunedClassifier`.
    balance : {"none", "undersample", "weights", "augment"}, default="none"
        Passed to the recipes, and by them to :class:`BalancedClassifier`. What a recipe that knows no `balance` was
        fitted on stays as it is, and the report says so.
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
    if balance not in METHODS:
        raise InputError(f"balance={balance!r} must be one of {METHODS}")
    if balance != "none" and not any(recipe.takes("balance") for recipe in recipes):
        raise RecipeError(f"none of these recipes can be balanced: {', '.join(recipe.name for recipe in recipes)}")
    options = {"store": store, "weights": weights, "random_state": random_state, "balance": balance}
    built = {recipe.name: (recipe, recipe.build(**options)) for recipe in recipes}
    if len(built) < len(recipes):
        raise RecipeError("two recipes have the same name; rename one of the files")
    check_splits(frame, cv)
    folds = _folds(frame, cv, random_state)
    folder = Path(out)
    (folder / "models").mkdir(parents=True, exist_ok=True)

    facts: dict[str, Any] = {"pipelines": {}, "data": _describe_data(frame), "run": _describe_run(random_state, cv)}
    for name, (recipe, pipeline) in built.items():
        facts["pipelines"][name] = {
            "description": recipe.description,
            "balance": balance if recipe.takes("balance") else "none",
            **embed_all(pipeline, frame, verbose),
        }
    scores: list[pd.DataFrame] = []
    training: list[pd.DataFrame] = []
    for name, (recipe, pipeline) in built.items():
        result, model, found = _evaluate(recipe, pipeline, frame, folds, n_jobs, verbose)
        facts["pipelines"][name]["seconds"] |= found.pop("seconds")
        facts["pipelines"][name] |= found
        with replacing(folder / "models" / f"{name}.skops") as draft:
            skops.io.dump(model, draft)
        scores.append(result)
        training += training_of(name, model)
        # After each pipeline: a later failure costs no more than itself.
        if len(scores) == 1:
            for earlier in ("metrics.json", "training.csv"):  # those of an earlier run do not fit these scores
                (folder / earlier).unlink(missing_ok=True)
        write_scores(pd.concat(scores), folder / "scores.csv")
        if training:
            write_training(pd.concat(training), folder / "training.csv")
        metrics = write_results(folder, facts)
    return metrics


def write_results(folder: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """Compute metrics.json from scores.csv and training.csv, and render the report."""
    from ..report.page import write_report  # matplotlib is wanted only once there is something to show

    scores, training = read_scores(folder / "scores.csv"), read_training(folder / "training.csv")
    metrics = merge_facts(summarise(scores), facts)
    for name, known in metrics["pipelines"].items():
        test = scores[(scores["pipeline"] == name) & (scores["split"] == "test")]
        epochs = training[training["pipeline"] == name]
        known["diagnosis"] = diagnose(test, known["test"]["roc_auc"]["value"], epochs, known.get("batch_norm"))
    text = json.dumps(metrics, indent=2, default=_plain)
    with replacing(folder / "metrics.json") as draft:
        draft.write_text(text + "\n", encoding="utf-8")
    metrics = json.loads(text)  # what is returned and shown is what is kept
    write_report(metrics, scores, training, folder / "report.html")
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


def _evaluate(
    recipe: Recipe, pipeline: Pipeline, frame: pd.DataFrame, splits: Splits, n_jobs: int | None, verbose: int
) -> tuple[pd.DataFrame, Pipeline, dict[str, Any]]:
    """Search, cross-validate and refit on train, then score val and test."""
    start = time.perf_counter()
    train = frame[frame["split"] == "train"]
    candidates = list(ParameterGrid(recipe.param_grid or {}))
    n_fits = len(candidates) * len(splits) + 1
    with progress_bar(f"Fitting {recipe.name}", n_fits, show=verbose > 0) as advance:
        best_params, held_out_scores = search(pipeline, candidates, train, splits, n_jobs=n_jobs, advance=advance)
        model = fit(pipeline.set_params(**best_params), train)
        advance(1)
    fitted = time.perf_counter()
    parts = [
        _score_rows(train.iloc[rows], recipe.name, scores, fold)
        for fold, ((_, rows), scores) in enumerate(zip(splits, held_out_scores, strict=True))
    ]
    parts += [_score_rows(part, recipe.name, scores_of(model, part)) for split in ("val", "test")
              if len(part := frame[frame["split"] == split])]  # fmt: skip
    seconds = {"fitting": fitted - start, "scoring": time.perf_counter() - fitted}
    batch_norm = getattr(last_classifier(model), "batch_norm_scores_", None)
    found = {"best_params": best_params, "seconds": seconds, "batch_norm": batch_norm, "backbones": backbones_of(model)}
    return pd.concat(parts), model, found


def _score_rows(rows: pd.DataFrame, name: str, scores: np.ndarray, fold: int | None = None) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "path": rows["path"],
            "patient": rows["patient"],
            "split": rows["split"],
            "fold": pd.array([fold] * len(rows), dtype="Int64"),
            "pipeline": name,
            "target": rows["target"],
            "score": scores,
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
