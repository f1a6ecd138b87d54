"""One pipeline, fitted to be used elsewhere: searched, calibrated if asked for, and with its threshold."""

from __future__ import annotations

import os
import warnings
from typing import Any

import pandas as pd

from ..evaluation.anatomy import embed_all
from ..evaluation.calibration import calibrate as calibrate_scores
from ..evaluation.calibration import calibrated_rows
from ..evaluation.circumstances import check_images
from ..evaluation.metrics import compute_metrics
from ..evaluation.search import evaluate, patient_folds
from ..evaluation.stress import stressed_validation
from ..evaluation.thresholds import choose_threshold, parse_rule
from ..exceptions import RecipeError
from ..persistence import SavedModel
from ..recipes import load_recipe
from ..scores import calibrated
from .checks import Domains, check_options, images_of


def train(
    frame: pd.DataFrame,
    pipeline: str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] = "imagenet",
    store: str | os.PathLike[str] | None = "auto",
    balance: str = "none",
    threshold: str | float = "youden",
    calibrate: str | None = None,
    allow_leaks: bool = False,
    cv: int = 5,
    n_jobs: int | None = None,
    random_state: int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    verbose: int = 0,
) -> SavedModel:
    """Fit a recipe on the train split and choose its threshold on val, as :func:`compare` does; test is not looked at.

    Parameters
    ----------
    frame : DataFrame
        As :func:`load_folder` returns it.
    pipeline : str or path
        A recipe.
    weights, store, balance, threshold, calibrate, allow_leaks, cv, n_jobs, random_state, verbose
        As for :func:`compare`; with ``cv=1``, the recipe is fitted once, on nine tenths of the training patients, and
        the threshold comes from the others where there are too few validation images.
    checkpoint : path or None, default=None
        Passed to the recipe, and by it to :class:`FineTunedClassifier`: a training that was killed goes on from there
        when it is run again.

    Returns
    -------
    SavedModel
        The fitted pipeline, a :class:`DomainDetector` of the training images, and the facts that :func:`save`
        is to keep: "recipe", "best_params", "balance", "threshold", "threshold_rule", "threshold_source", "folds",
        "calibrated", "metrics" at that threshold ("out_of_fold" and, if there are validation images of both classes,
        "val"), "data" and "synthetic". ``save(model.pipeline, path, domain=model.domain, **model.manifest)``
        makes a file of it.

    Raises
    ------
    DataError
        If the train split lacks a class, has fewer patients of one than folds, or there are leaks.
    RecipeError, ImageReadError, WeightsUnavailableError, StoreError, ValueError
        As :func:`compare`.
    """
    rule = parse_rule(str(threshold))
    check_options(balance, calibrate, cv, n_jobs)
    recipe = load_recipe(pipeline)
    if balance != "none" and not recipe.takes("balance"):
        raise RecipeError(f"{recipe.name} cannot be balanced")
    if checkpoint is not None and not recipe.takes("checkpoint"):
        raise RecipeError(f"{recipe.name} has nothing to continue: its build() takes no checkpoint")
    options = {} if checkpoint is None else {"checkpoint": checkpoint}
    built = recipe.build(weights=weights, store=store, random_state=random_state, balance=balance, **options)
    frame = images_of(frame, ("train", "val"), with_both_classes=("train",), cv=cv)
    rows = frame[frame["split"] == "train"]
    check_images(frame, store, allow_leaks=allow_leaks, verbose=verbose)
    # First what is quick and may fail.
    domains = Domains(store, rows)
    domains.of(built)
    embed_all(built, frame, verbose)
    folds = patient_folds(rows, cv, random_state)
    scores, model, found = evaluate(recipe, built, frame, folds, n_jobs, verbose)
    scores, calibrator = calibrate_scores(scores, calibrate) if calibrate else (scores, None)
    changed = None
    if rule.name == "robust":
        changed = stressed_validation(recipe.name, built, model, frame, scores=scores, folds=folds, verbose=verbose)
        changed = calibrated_rows(changed, calibrator)
        if changed.empty:
            warnings.warn(
                f"{recipe.name} loads no images by an ImageLoader, so none can be changed: its threshold is by "
                "Youden's index over images as they are",
                stacklevel=2,
            )
    chosen = choose_threshold(scores, rule, changed)
    facts = {
        "recipe": recipe.name,
        "best_params": {name: str(value) for name, value in found["best_params"].items()},
        "balance": balance,
        "threshold": chosen["value"],
        "threshold_rule": chosen["rule"],
        "threshold_source": chosen["source"],
        "folds": cv,
        "calibrated": calibrate and ("reversed" if calibrator is None else calibrate),
        "metrics": _metrics(scores, float(chosen["value"])),
        "data": {split: _count(frame[frame["split"] == split]) for split in ("train", "val")},
        "synthetic": bool(frame.attrs.get("synthetic", False)),
    }
    return SavedModel(calibrated(model, calibrator), domains.of(model), facts)


def _metrics(scores: pd.DataFrame, threshold: float) -> dict[str, Any]:
    parts = {"out_of_fold": scores[scores["split"] == "train"], "val": scores[scores["split"] == "val"]}
    return {
        name: compute_metrics(part["target"], part["score"], threshold)
        for name, part in parts.items()
        if part["target"].nunique() == 2
    }


def _count(rows: pd.DataFrame) -> dict[str, int]:
    return {
        "images": len(rows),
        "patients": int(rows["patient"].nunique()),
        "pneumonia": int(rows["target"].sum()),
    }
