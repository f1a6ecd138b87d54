"""train: fit one pipeline, with its parameters searched and its threshold chosen."""

from __future__ import annotations

import os
import warnings
from typing import Any

import pandas as pd

from .._settings import usual_settings
from .._validation import checks_types
from ..datasets._frame import any_drawn
from ..evaluation.metrics import compute_metrics
from ..evaluation.thresholds import choose_threshold, parse_rule
from ..exceptions import RecipeError
from ..models.model import CXRModel
from ._metadata import check_images, count_images, development_of
from .probes import stressed_validation
from .recipes import candidates_of, load_recipe
from .search import Domains, check_options, embed_all, fit_candidate, images_of, patient_folds


@usual_settings
@checks_types
def train(
    frame: pd.DataFrame,
    pipeline: Any,
    *,
    weights: str | os.PathLike[str] = "imagenet",
    precision: str = "auto",
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
) -> CXRModel:
    """Fit a pipeline on the train split and choose its threshold on val, as :func:`compare` does, without test images.

    Parameters
    ----------
    frame : DataFrame
        As :func:`load_folder` returns it.
    pipeline : str, path, estimator, or dict of one of them
        A recipe, an estimator, or ``{"name": ...}`` with one of them or a pair of an estimator and its parameter grid.
    weights, precision, store, balance, threshold, calibrate, allow_leaks, cv, n_jobs, random_state, verbose
        As for :func:`compare`. With ``cv=1``, if there are too few validation images, the threshold is chosen on the
        tenth of the training patients that is held out.
    checkpoint : path or None, default=None
        Passed to the recipe, and by it to :class:`FineTunedClassifier`: the same call resumes a training that was
        interrupted.

    Returns
    -------
    CXRModel
        The fitted pipeline with its threshold, its calibrator if one was asked for, a :class:`DomainDetector` of the
        training images, and as metadata "recipe", "description", "best_params", "balance", "threshold_rule",
        "threshold_source", "folds", "calibrated", "metrics" at the threshold ("out_of_fold" and, if there are
        validation images of both classes, "val"), "data", "synthetic" and "development", by which :func:`evaluate`
        knows images and patients again. :func:`save_model` makes a file of it.

    Raises
    ------
    DataError
        If the train split lacks a class, has fewer patients of one than folds, or there are leaks.
    TrainingError
        If the pipeline fails.
    RecipeError, ImageReadError, WeightsUnavailableError, StoreError, ValueError
        As :func:`compare`.
    """
    rule = parse_rule(str(threshold))
    check_options(balance, calibrate, cv, n_jobs)
    options: dict[str, Any] = {"weights": weights, "precision": precision, "store": store, "random_state": random_state}
    if checkpoint is not None:
        if not (isinstance(pipeline, str | os.PathLike) and load_recipe(pipeline).takes("checkpoint")):
            raise RecipeError(
                f"{pipeline} cannot resume a training: it is not a recipe whose build() takes a checkpoint"
            )
        options["checkpoint"] = checkpoint
    candidate, *others = candidates_of(pipeline, (), balance=balance, **options)
    if others:
        raise RecipeError("train fits one pipeline; compare takes several")
    frame = images_of(frame, ("train", "val"), with_both_classes=("train",), cv=cv)
    frame, _ = check_images(frame, store, allow_leaks=allow_leaks, verbose=verbose)
    rows = frame[frame["split"] == "train"]
    # The quick steps that may fail come first.
    domains = Domains(store, rows)
    domains.of(candidate.pipeline)
    embed_all(candidate.pipeline, frame, verbose)
    folds = patient_folds(rows, cv, random_state)
    fitted = fit_candidate(candidate, frame, folds, calibrate=calibrate, n_jobs=n_jobs, verbose=verbose)
    changed = None
    if rule.name == "robust":
        changed = stressed_validation(candidate.name, fitted, frame, folds, verbose)
        if changed.empty:
            warnings.warn(
                f"{candidate.name} has no ImageLoader, so its images cannot be changed: its threshold is chosen by "
                "Youden's index on unchanged images",
                stacklevel=4,  # past the decorators
            )
    chosen = choose_threshold(fitted.scores, rule, changed)
    threshold = float(chosen["value"])
    parts = fitted.scores.groupby(fitted.scores["split"].replace("train", "out_of_fold"))
    metadata = {
        "recipe": candidate.name,
        "description": candidate.description,
        "best_params": {name: str(value) for name, value in fitted.facts["best_params"].items()},
        "balance": candidate.balance,
        "threshold_rule": chosen["rule"],
        "threshold_source": chosen["source"],
        "folds": cv,
        "calibrated": fitted.facts["calibrated"],
        "metrics": {
            name: compute_metrics(part["target"], part["score"], threshold)
            for name, part in parts
            if part["target"].nunique() == 2
        },
        "data": {split: count_images(frame[frame["split"] == split]) for split in ("train", "val")},
        "synthetic": any_drawn(frame["path"]),
        "development": development_of(frame, fitted.scores),
    }
    domain = domains.of(fitted.model)
    return CXRModel(fitted.model, threshold, calibrator=fitted.calibrator, domain=domain, metadata=metadata)
