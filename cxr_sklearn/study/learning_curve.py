"""learning_curve: ROC AUC on held-out images against the number of training patients."""

from __future__ import annotations

import os
from typing import Any

import pandas as pd
from sklearn.base import clone
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import ParameterGrid

from .._io import folder_to_write
from .._progress import progress_bar
from .._settings import usual_settings
from .._validation import checks_types
from ..datasets._frame import MIN_IMAGES_PER_CLASS
from ..evaluation.tables import TABLES, write_table
from ..exceptions import DataError, InputError
from ..features.embedder import FrozenEmbedder
from ..models._steps import describe_networks, networks_of
from ._metadata import check_images
from .recipes import Candidate, candidates_of, default_recipes, load_recipe
from .run_folder import claim, owned, prepare
from .search import blaming, embed_all, fit, images_of, patient_folds, scores_of, search

SMALLEST = 30
_FOLDS = 4


@usual_settings
@checks_types
def learning_curve(
    frame: pd.DataFrame,
    pipelines: Any = None,
    *,
    out: str | os.PathLike[str],
    weights: str | os.PathLike[str] = "imagenet",
    precision: str = "auto",
    store: str | os.PathLike[str] | None = "auto",
    n_repeats: int = 10,
    allow_leaks: bool = False,
    random_state: int = 0,
    overwrite: bool = False,
    verbose: int = 0,
) -> pd.DataFrame:
    """Fit pipelines on 30, 60, 120, ... and all training patients, and measure them on others.

    The parameters of each pipeline are searched once, on all training patients. Patients are drawn by class, and within
    a repeat each larger draw contains the smaller ones. The AUC is measured on the validation split or, if that has
    fewer than 30 images of a class, on a quarter of the training patients, which no fit sees.

    Parameters
    ----------
    frame : DataFrame
        As :func:`load_folder` returns it.
    pipelines : dict, sequence of str or path, or None
        As for :func:`compare`. None takes the shipped recipes on frozen features, which are computed once for all fits.
    out : path
        Folder for ``learning_curve.csv``. A run of :func:`compare` in the same folder shows it in its report.
    weights, precision, store
        Passed to the recipes.
    n_repeats : int, default=10
        Number of draws for each number of patients.
    allow_leaks : bool, default=False
        Whether to go on if images of train and val are copies of each other.
    random_state : int, default=0
    overwrite : bool, default=False
        Whether to replace a ``learning_curve.csv`` in `out` that was not written by this function.
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
        If there are fewer than 30 training patients, too few of a class, or a patient or copies of an image in both
        train and val.
    ValueError
        If `n_repeats` is wrong.
    TrainingError
        If a pipeline fails.
    RecipeError, ImageReadError, WeightsUnavailableError
        As :func:`compare`.
    """
    if n_repeats < 1:
        raise InputError(f"n_repeats={n_repeats} must be at least 1")
    folder = folder_to_write(out)
    options: dict[str, Any] = {"weights": weights, "precision": precision, "store": store, "random_state": random_state}
    candidates = candidates_of(pipelines, frozen_recipes(), **options)
    claim(folder, ["learning_curve.csv"], overwrite=overwrite)
    for candidate in candidates:
        describe_networks(candidate.pipeline)  # as in compare, missing weights are found out at once
    frame = images_of(frame, ("train", "val"), with_both_classes=("train",), cv=_FOLDS)
    train, measured, source = _parts(frame, random_state)
    sizes = _sizes(train["patient"].nunique())
    both, _ = check_images(pd.concat([train, measured]), store, allow_leaks=allow_leaks, verbose=verbose)
    train, measured = both.iloc[: len(train)], both.iloc[len(train) :]
    prepare(folder)
    draws = [(n, repeat) for n in sizes for repeat in range(1 if n == sizes[-1] else n_repeats)]
    rows: list[tuple[Any, ...]] = []
    for candidate in candidates:
        facts = embed_all(candidate.pipeline, both, verbose)
        used = " + ".join(sorted({backbone["weights"] for backbone in facts["backbones"]}))
        title = f"Learning curve, {candidate.name}"
        with blaming(candidate.name), progress_bar(title, len(draws), show=verbose > 0) as advance:
            best = _best_params(candidate, train, random_state)
            pipeline = clone(candidate.pipeline).set_params(**best)
            for n, repeat in draws:
                drawn = _draw(train, n, random_state + repeat)
                auc = roc_auc_score(measured["target"], scores_of(fit(pipeline, drawn), measured))
                rows.append((candidate.name, used, source, len(measured), n, repeat, auc))
                advance(1)
        table = pd.DataFrame(rows, columns=list(TABLES["learning_curve"].columns))
        with owned(folder, "learning_curve.csv"):  # after each pipeline, so that a later failure loses nothing
            write_table(table, folder, "learning_curve")
    return table


def frozen_recipes() -> list[str]:
    """Return the names of the default recipes whose features come from a frozen network."""
    return [
        name
        for name in default_recipes()
        if any(isinstance(network, FrozenEmbedder) for network in networks_of(load_recipe(name).build()))
    ]


def _parts(frame: pd.DataFrame, random_state: int) -> tuple[pd.DataFrame, pd.DataFrame, str]:
    train, val = (frame[frame["split"] == split] for split in ("train", "val"))
    if min((val["target"] == label).sum() for label in (0, 1)) >= MIN_IMAGES_PER_CLASS:
        if n_both := len(set(train["patient"]) & set(val["patient"])):
            raise DataError(f"{n_both} patients have images in both train and val; put each patient into one split")
        return train, val, "val"
    rows, held_out = patient_folds(train, _FOLDS, random_state)[0]
    return train.iloc[rows], train.iloc[held_out], "held-out"


def _sizes(n_patients: int) -> list[int]:
    if n_patients < SMALLEST:
        left = f"{n_patients} training patients, less those held out,"
        raise DataError(f"{left} are too few; the curve starts at {SMALLEST}")
    sizes = [SMALLEST]
    # The last step, to all patients, multiplies their number by at least 1.5.
    while sizes[-1] * 2 <= n_patients / 1.5:
        sizes.append(sizes[-1] * 2)
    return [*sizes, n_patients] if n_patients > sizes[-1] else sizes


def _best_params(candidate: Candidate, train: pd.DataFrame, random_state: int) -> dict[str, Any]:
    grid = list(ParameterGrid(candidate.param_grid or {}))
    if len(grid) == 1:
        return dict(grid[0])
    splits = patient_folds(train, _FOLDS, random_state)
    best, _, _ = search(candidate.pipeline, grid, train, splits, n_jobs=None, advance=lambda n: None)
    return best


def _draw(train: pd.DataFrame, n: int, random_state: int) -> pd.DataFrame:
    """Draw `n` patients, stratified by class; a larger draw with the same seed contains the smaller one."""
    labels = train.groupby("patient")["target"].first()
    shuffled = labels.sample(frac=1, random_state=random_state)
    n_pneumonia = min(max(round(n * labels.mean()), 2), n - 2)
    sizes = {1: n_pneumonia, 0: n - n_pneumonia}
    taken = [patient for label, size in sizes.items() for patient in shuffled.index[shuffled == label][:size]]
    return train[train["patient"].isin(taken)]
