"""The grid search: whole patients in each fold, and every fit passes its patients on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from sklearn.base import clone
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import ParameterGrid, StratifiedGroupKFold
from sklearn.pipeline import Pipeline

from ..exceptions import DataError
from ..progress import progress_bar
from ..recipes import Recipe
from ..routing import fit_params
from ..scores import pneumonia_scores
from .anatomy import backbones_of, last_classifier
from .scores import score_rows

#: With one fold, one patient in so many is held out.
HELD_OUT = 10
Splits = list[tuple[np.ndarray, np.ndarray]]


def patient_folds(train: pd.DataFrame, cv: int, random_state: int) -> Splits:
    """Return stratified folds of whole patients, as positions in `train`; of one fold, a tenth is held out.

    Raises
    ------
    DataError
        If a fold would lack a class.
    """
    fewest = min(train.groupby("target")["patient"].nunique())
    folds = StratifiedGroupKFold(cv if cv > 1 else min(HELD_OUT, fewest), shuffle=True, random_state=random_state)
    splits = list(folds.split(train["path"], train["target"], train["patient"]))
    complete = [split for split in splits if all(train["target"].iloc[rows].nunique() == 2 for rows in split)]
    if cv == 1 and complete:
        return complete[:1]
    if len(complete) < len(splits):
        raise DataError(
            f"{cv} folds of whole patients leave one without both classes; add patients or ask for fewer folds"
            if cv > 1
            else "no tenth of the training patients has both classes and leaves both; add patients"
        )
    return splits


def fit(pipeline: Pipeline, rows: pd.DataFrame) -> Pipeline:
    """Fit a clone on rows of a frame; a classifier that holds images out gets the patients."""
    return clone(pipeline).fit(rows["path"], rows["target"], **fit_params(pipeline, groups=rows["patient"].to_numpy()))


def search(
    pipeline: Pipeline,
    candidates: Sequence[dict[str, Any]],
    train: pd.DataFrame,
    splits: Splits,
    *,
    n_jobs: int | None,
    advance: Callable[[int], None],
) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Return the candidate of the highest mean ROC AUC over the folds, and its out-of-fold scores.

    GridSearchCV would throw those scores away, and fitting every fold of the best candidate again for them can take
    as long as the search.

    Parameters
    ----------
    pipeline : Pipeline
    candidates : sequence of dict
        Parameters to set.
    train : DataFrame
        With `path`, `target` and `patient`.
    splits : list of (ndarray, ndarray)
        Positions in `train` to fit on and to hold out.
    n_jobs : int or None
        Processes.
    advance : callable
        Told of every finished fit.

    Returns
    -------
    best : dict
    held_out : list of ndarray
        Scores of the held-out rows of each split.
    """
    tasks = [
        delayed(_fold_scores)(clone(pipeline).set_params(**candidate), train.iloc[rows], train.iloc[held_out])
        for candidate in candidates
        for rows, held_out in splits
    ]
    scores = []
    for fold_scores in Parallel(n_jobs=n_jobs, return_as="generator")(tasks):
        scores.append(fold_scores)
        advance(1)
    by_candidate = [scores[i : i + len(splits)] for i in range(0, len(scores), len(splits))]
    targets = [train["target"].iloc[held_out] for _, held_out in splits]
    means = [np.mean([roc_auc_score(*fold) for fold in zip(targets, folds, strict=True)]) for folds in by_candidate]
    best = int(np.argmax(means))
    return dict(candidates[best]), by_candidate[best]


def _fold_scores(pipeline: Pipeline, rows: pd.DataFrame, held_out: pd.DataFrame) -> np.ndarray:
    return pneumonia_scores(fit(pipeline, rows), held_out["path"])


def evaluate(
    recipe: Recipe, pipeline: Pipeline, frame: pd.DataFrame, splits: Splits, n_jobs: int | None, verbose: int
) -> tuple[pd.DataFrame, Pipeline, dict[str, Any]]:
    """Search, cross-validate and refit on train, then score val and test.

    With one split, the model is fitted on the images that were not held out and no others; without a search, the fit
    whose scores of the held-out images are kept is that model, and what takes long to fit is fitted once.
    """
    start = time.perf_counter()
    train = frame[frame["split"] == "train"]
    candidates = list(ParameterGrid(recipe.param_grid or {}))
    is_fitted_once = len(splits) == 1 and len(candidates) == 1
    n_fits = 1 if is_fitted_once else len(candidates) * len(splits) + 1
    rows = train if len(splits) > 1 else train.iloc[splits[0][0]]
    with progress_bar(f"Fitting {recipe.name}", n_fits, show=verbose > 0) as advance:
        if is_fitted_once:
            best_params = dict(candidates[0])
            model = fit(pipeline.set_params(**best_params), rows)
            held_out_scores = [pneumonia_scores(model, train["path"].iloc[splits[0][1]])]
        else:
            best_params, held_out_scores = search(pipeline, candidates, train, splits, n_jobs=n_jobs, advance=advance)
            model = fit(pipeline.set_params(**best_params), rows)
        advance(1)
    fitted = time.perf_counter()
    parts = [
        score_rows(train.iloc[held_out], recipe.name, scores, fold)
        for fold, ((_, held_out), scores) in enumerate(zip(splits, held_out_scores, strict=True))
    ]
    parts += [score_rows(part, recipe.name, pneumonia_scores(model, part["path"])) for split in ("val", "test")
              if len(part := frame[frame["split"] == split])]  # fmt: skip
    seconds = {"fitting": fitted - start, "scoring": time.perf_counter() - fitted}
    batch_norm = getattr(last_classifier(model), "batch_norm_scores_", None)
    found = {"best_params": best_params, "seconds": seconds, "batch_norm": batch_norm, "backbones": backbones_of(model)}
    return pd.concat(parts, ignore_index=True), model, found
