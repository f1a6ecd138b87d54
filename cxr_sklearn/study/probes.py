"""Scores of changed images, and of models that were trained on permuted labels."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from .._progress import progress_bar
from .._settings import usual_settings
from .._validation import checks_types
from ..evaluation.probes import figures
from ..evaluation.tables import CLEAN, STRESS, TABLES, score_rows
from ..evaluation.thresholds import images_to_choose_on
from ..exceptions import DataError, InputError
from ..images.changes import CHANGES, PARTS, Change, ImageOccluder, ImageStresser
from ..models._steps import after_loader
from ..models.calibration import pneumonia_scores
from ..models.model import CXRModel, check_threshold
from .search import Fitted, Splits, calibrated_rows, fit, patient_folds, scores_of

_CHUNK_SIZE = 64
#: The repr of a function holds its address and that of a large array leaves numbers out: it does not say what they do.
_INCOMPLETE = re.compile(r" at 0x[0-9a-fA-F]+|\.\.\.")


def _scores_by_model(models: Mapping[str, Any], paths: pd.Series, title: str, verbose: int) -> dict[str, np.ndarray]:
    """Return the probability of pneumonia of each image, shape (n,), by each model, with one progress bar for all."""
    chunks = [paths.iloc[start : start + _CHUNK_SIZE] for start in range(0, len(paths), _CHUNK_SIZE)]
    parts: dict[str, list[np.ndarray]] = {name: [] for name in models}
    with progress_bar(title, len(models) * len(paths), show=verbose > 0) as advance:
        for name, model in models.items():
            for chunk in chunks:
                parts[name].append(pneumonia_scores(model, chunk))
                advance(len(chunk))
    return {name: np.concatenate(scores) for name, scores in parts.items()}


def _probe_rows(
    name: str, models: Mapping[str, Any], rows: pd.DataFrame, *, title: str, verbose: int, fold: int | None = None
) -> pd.DataFrame:
    """Score the same images with the fitted model of each probe, and return rows of ``probes.csv``."""
    scores = _scores_by_model(models, rows["path"], f"{title}, {name}", verbose)
    parts = [score_rows(rows, name, score, fold).assign(probe=probe) for probe, score in scores.items()]
    return pd.concat(parts) if parts else pd.DataFrame(columns=list(TABLES["probes"].columns))


def permuted_labels(train: pd.DataFrame, random_state: int) -> pd.Series:
    """Return a label per row, dealt out anew to the patients, so that images do not predict it.

    All images of a patient get the same label; a patient with images of both counts as one of the first of them.
    """
    labels = train.groupby("patient")["target"].first()
    dealt = pd.Series(np.random.default_rng(random_state).permutation(labels), index=labels.index)
    return train["patient"].map(dealt)


def permuted_rows(
    name: str, pipeline: Pipeline, train: pd.DataFrame, *, random_state: int, verbose: int
) -> pd.DataFrame:
    """Fit a pipeline on permuted labels of half of the patients, score the others, and return rows of ``probes.csv``.

    There is one split instead of folds: folds share most of their training patients, so their AUCs are correlated, and
    no simple interval holds for the mean.
    """
    dealt = train.assign(target=permuted_labels(train, random_state))
    fitted, held_out = (dealt.iloc[rows] for rows in patient_folds(dealt, 2, random_state)[0])
    with progress_bar(f"Permuted labels, {name}", 1, show=verbose > 0) as advance:
        scores = scores_of(fit(pipeline, fitted), held_out)
        advance(1)
    return score_rows(held_out, name, scores, fold=0).assign(probe="permuted")


def occluded(model: Any, part: str) -> Any | None:
    """Return a fitted model to which a part of each image is hidden, or None if it has no ImageLoader."""
    return after_loader(model, "occlude", ImageOccluder(part))


def occluded_rows(name: str, model: Any, test: pd.DataFrame, verbose: int) -> pd.DataFrame:
    """Score test images with their border, then their centre, hidden; there are no rows without an ImageLoader."""
    models = {part: changed for part in PARTS if (changed := occluded(model, part)) is not None}
    return _probe_rows(name, models, test, title="Occluding images", verbose=verbose)


def stressed(model: Any, change: Change) -> Any | None:
    """Return a fitted model that sees changed images, or None if it has no ImageLoader."""
    return after_loader(model, "stress", ImageStresser(change))


@usual_settings
@checks_types
def stress_test(
    model: Pipeline | CXRModel,
    frame: pd.DataFrame,
    changes: str | Sequence[str] | Mapping[str, Change] | None = None,
    *,
    threshold: float | None = None,
    verbose: int = 0,
) -> pd.DataFrame:
    """Score images as they are and changed: overexposed, blurred, tilted and so on.

    On validation images, which are drawn like the training images, all good models are nearly perfect. Changed images
    tell them apart without a look at the test images. A model that does better on them tends to do better on images
    from elsewhere, too, but not always: these are a few changes out of many, and none of them is another hospital.

    Parameters
    ----------
    model : Pipeline
        Fitted on 0 (normal) and 1 (pneumonia), with an :class:`ImageLoader`.
    frame : DataFrame of n rows
        With `path` and `target`, and images of both classes: best the validation images.
    changes : str, sequence of str, or mapping of str to callable, default=None
        Which of "bright", "gamma", "blurred", "collimated", "tilted", "noisy", "small" and "combined" to try; None
        tries all. A mapping names changes of your own, callables from and to grey pixels ``uint8 (H, W)`` of any size.
        Features of changed images are stored under the ``repr`` of the change, which must therefore describe it
        completely, as that of a frozen dataclass does.
    threshold : float, optional
        The score from which an image is called pneumonia. None takes that of a :class:`CXRModel`, and 0.5 for a
        pipeline.
    verbose : int, default=0
        1 shows a progress bar.

    Returns
    -------
    DataFrame of shape (1 + n_changes, 4) and dtype float64
        For the unchanged images, "clean", and for each change: `roc_auc` and, at the threshold, `recall`,
        `specificity` and `called_pneumonia`, the share of images that reach the threshold.

    Raises
    ------
    InputError
        If a change or the threshold is wrong, or the pipeline has no ImageLoader.
    DataError
        If `frame` lacks a column or a class.
    ModelError
        If the model does not give probabilities of 0 and 1.
    ImageReadError
        If images cannot be read; the error lists every one.

    See Also
    --------
    compare : With ``stress=True``, tests every pipeline this way, with confidence intervals.
    ImageAugmenter : Changes training images, so that a model learns to cope with changes.

    References
    ----------
    Hendrycks, Dietterich (2019). Benchmarking neural network robustness to common corruptions and perturbations. ICLR.

    Examples
    --------
    >>> from cxr_sklearn import load_folder, load_model, stress_test
    >>> frame = load_folder("chest_xray")  # doctest: +SKIP
    >>> val = frame[frame["split"] == "val"]  # doctest: +SKIP
    >>> stress_test(load_model("pneumonia.skops"), val, ["tilted", "noisy"])  # doctest: +SKIP
              roc_auc  recall  specificity  called_pneumonia
    change
    clean       0.991   0.963        0.948             0.714
    tilted      0.972   0.981        0.794             0.762
    noisy       0.954   0.741        0.962             0.548
    """
    chosen = _chosen(changes)
    threshold = getattr(model, "threshold", 0.5) if threshold is None else threshold
    check_threshold(threshold)
    if missing := [column for column in ("path", "target") if column not in frame]:
        raise DataError(f"the frame lacks the columns {missing}; those of load_folder and load_frame have them")
    if set(frame["target"]) != {0, 1}:
        raise DataError("the frame must have images of both classes, target 0 (normal) and 1 (pneumonia)")
    check_is_fitted(model)
    models = {CLEAN: model, **{name: stressed(model, change) for name, change in chosen.items()}}
    if None in models.values():
        raise InputError("the pipeline has no ImageLoader, so its images cannot be changed as they are read")
    scores = _scores_by_model(models, frame["path"], "Changing images", verbose)
    found = {name: figures(frame["target"], score, threshold) for name, score in scores.items()}
    return pd.DataFrame.from_dict(found, orient="index").rename_axis("change")


def _chosen(changes: str | Sequence[str] | Mapping[str, Change] | None) -> dict[str, Change]:
    if changes is None:
        return CHANGES
    if not isinstance(changes, Mapping):
        names = [changes] if isinstance(changes, str) else list(changes)
        if unknown := [name for name in names if name not in CHANGES]:
            raise InputError(f"changes={unknown} must be among {', '.join(CHANGES)}, or callables by name")
        return {name: CHANGES[name] for name in names}
    for name, change in changes.items():
        if name == CLEAN or not callable(change):
            raise InputError(f"the change {name!r} must be a callable, and not be called {CLEAN!r}")
        if _INCOMPLETE.search(repr(change)):
            raise InputError(
                f"the repr of the change {name!r} must describe it completely, but is {change!r}; make the change a "
                "frozen dataclass with a __call__"
            )
    return dict(changes)


def stressed_rows(name: str, model: Any, rows: pd.DataFrame, verbose: int, fold: int | None = None) -> pd.DataFrame:
    """Score changed images with a fitted model, and return rows of ``probes.csv``, no rows without an ImageLoader.

    If `rows` were held out of a `fold`, unchanged images are scored first: their scores in ``scores.csv`` come from
    another fit, or were calibrated on other folds.
    """
    models = {} if fold is None else {STRESS + CLEAN: model}
    models |= {STRESS + change_name: stressed(model, change) for change_name, change in CHANGES.items()}
    if None in models.values():
        models = {}
    return _probe_rows(name, models, rows, title="Changing images", verbose=verbose, fold=fold)


def stressed_validation(name: str, fitted: Fitted, frame: pd.DataFrame, folds: Splits, verbose: int) -> pd.DataFrame:
    """Score changed validation images or, if these are too few to decide anything, the first fold of train.

    For that fold the pipeline is fitted once more, on the other folds. The scores are calibrated as all others are.
    """
    model, fold = fitted.model, None
    source, _ = images_to_choose_on(fitted.scores)
    rows = frame[frame["split"] == "val"]
    if source != "val":
        train, fold = frame[frame["split"] == "train"], 0
        others, rows = (train.iloc[positions] for positions in folds[0])
        # No fit is needed without images to change, or with one fold, which the final model has not seen either.
        if len(folds) > 1 and stressed(model, CHANGES["combined"]) is not None:
            with progress_bar(f"Fitting without the first fold, {name}", 1, show=verbose > 0) as advance:
                model = fit(fitted.pipeline, others)
                advance(1)
    return calibrated_rows(stressed_rows(name, model, rows, verbose, fold), fitted.calibrator)
