"""Scores of images that were changed, and of labels that were permuted."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from .._progress import progress_bar
from ..evaluation.probes import _figures
from ..evaluation.tables import CLEAN, STRESS, TABLES, score_rows
from ..evaluation.thresholds import images_to_choose_on
from ..exceptions import DataError, InputError
from ..images.changes import CHANGES, PARTS, Change, ImageOccluder, ImageStresser
from ..models._steps import after_loader
from ..models.calibration import pneumonia_scores
from ..models.model import check_threshold
from .search import Fitted, Splits, calibrated_rows, fit, patient_folds, scores_of

_CHUNK_SIZE = 64


def scores_in_chunks(model: Any, paths: pd.Series, advance: Callable[[int], None]) -> np.ndarray:
    """Return the probability of pneumonia of each image, shape (n,); a part at a time, to show progress."""
    chunks = [paths.iloc[start : start + _CHUNK_SIZE] for start in range(0, len(paths), _CHUNK_SIZE)]
    scores = []
    for chunk in chunks:
        scores.append(pneumonia_scores(model, chunk))
        advance(len(chunk))
    return np.concatenate(scores)


def probe_rows(
    name: str, models: Mapping[str, Any], rows: pd.DataFrame, *, title: str, verbose: int, fold: int | None = None
) -> pd.DataFrame:
    """Score the same images with one pipeline after the other.

    Parameters
    ----------
    name : str
        Of the pipeline in ``probes.csv``.
    models : mapping of str to Pipeline
        Fitted, by probe; maybe none.
    rows : DataFrame
        With `path`, `patient`, `split` and `target`.
    title : str
        What the progress bar says.
    verbose : int
        1 shows a progress bar.
    fold : int or None
        Of training images that were held out.

    Returns
    -------
    DataFrame
        Rows of ``probes.csv``.
    """
    parts = []
    with progress_bar(f"{title}, {name}", len(models) * len(rows), show=verbose > 0) as advance:
        for probe, model in models.items():
            scores = scores_in_chunks(model, rows["path"], advance)
            parts.append(score_rows(rows, name, scores, fold).assign(probe=probe))
    return pd.concat(parts) if parts else pd.DataFrame(columns=list(TABLES["probes"].columns))


def permuted_labels(train: pd.DataFrame, random_state: int) -> pd.Series:
    """Deal the patients' labels out to other patients: nothing in an image can tell them then.

    Parameters
    ----------
    train : DataFrame
        With `patient` and `target`; a patient of both labels counts as one of the first.
    random_state : int

    Returns
    -------
    Series
        A label per row; all images of a patient share it.
    """
    labels = train.groupby("patient")["target"].first()
    dealt = pd.Series(np.random.default_rng(random_state).permutation(labels), index=labels.index)
    return train["patient"].map(dealt)


def permuted_rows(
    name: str, pipeline: Pipeline, train: pd.DataFrame, *, random_state: int, verbose: int
) -> pd.DataFrame:
    """Fit a pipeline on permuted labels of half of the patients, and score the other half.

    Folds would be fitted on much the same patients: their AUCs go together, and no simple interval holds for a mean.

    Parameters
    ----------
    name : str
        Of the pipeline.
    pipeline : Pipeline
        Need not be fitted.
    train : DataFrame
        With `path`, `patient`, `split` and `target`.
    random_state, verbose
        As for :func:`compare`.

    Returns
    -------
    DataFrame
        Rows of ``probes.csv``, one per held-out image; `target` is the permuted label.
    """
    dealt = train.assign(target=permuted_labels(train, random_state))
    fitted, held_out = (dealt.iloc[rows] for rows in patient_folds(dealt, 2, random_state)[0])
    with progress_bar(f"Permuted labels, {name}", 1, show=verbose > 0) as advance:
        scores = scores_of(fit(pipeline, fitted), held_out)
        advance(1)
    return score_rows(held_out, name, scores, fold=0).assign(probe="permuted")


def occluded(model: Any, part: str) -> Any | None:
    """Return a fitted pipeline that sees images with a part hidden; None where it loads none by an ImageLoader."""
    return after_loader(model, "occlude", ImageOccluder(part))


def occluded_rows(name: str, model: Any, test: pd.DataFrame, verbose: int) -> pd.DataFrame:
    """Score test images with their border, then their centre, hidden from a fitted pipeline.

    Parameters
    ----------
    name : str
        Of the pipeline.
    model : Pipeline
        Fitted.
    test : DataFrame
        With `path`, `patient`, `split` and `target`.
    verbose : int
        1 shows a progress bar.

    Returns
    -------
    DataFrame
        Rows of ``probes.csv``; none where the pipeline loads its images itself.
    """
    blinded = {part: occluded(model, part) for part in PARTS}
    models = {part: pipeline for part, pipeline in blinded.items() if pipeline is not None}
    return probe_rows(name, models, test, title="Occluding images", verbose=verbose)


#: What Python prints for a function, and NumPy for the middle of a large array: others look the same.
_UNSAID = re.compile(r" at 0x[0-9a-fA-F]+|\.\.\.")


def stressed(model: Any, change: Change) -> Any | None:
    """Return a fitted pipeline that sees changed images; None where it loads none by an ImageLoader."""
    return after_loader(model, "stress", ImageStresser(change))


def stress_test(
    model: Pipeline,
    frame: pd.DataFrame,
    changes: Sequence[str] | Mapping[str, Change] | None = None,
    *,
    threshold: float | None = None,
    verbose: int = 0,
) -> pd.DataFrame:
    """Score images as they are and changed: overexposed, blurred, tilted and so on.

    Validation images are drawn as training images are, and good models are all near perfect on them. Changed, they
    tell models apart without a look at the test images. A model that does better here tends to do better on images of
    another origin, too, but not always: these are a few changes out of many, and none of them is another hospital.

    Parameters
    ----------
    model : Pipeline
        Fitted on 0 (normal) and 1 (pneumonia), with an :class:`ImageLoader`.
    frame : DataFrame of n rows
        With `path` and `target`, both classes; best the validation images, ``frame[frame["split"] == "val"]``.
    changes : sequence of str, or mapping of str to callable, default=None
        Which of "bright", "gamma", "blurred", "collimated", "tilted", "noisy", "small" and "combined" to try; None
        tries all. Changes of your own are callables by name, from grey pixels ``uint8 (H, W)`` of any size to such;
        what is computed of changed images is kept by the ``repr`` of the change, so that must say all of what it does,
        as that of a frozen dataclass does.
    threshold : float, optional
        None takes that of a :class:`CXRModel`, and 0.5 for a pipeline.
        The score from which an image is called pneumonia.
    verbose : int, default=0
        1 shows a progress bar.

    Returns
    -------
    DataFrame of shape (1 + n_changes, 4) and dtype float64
        By change, "clean" first, which is the images as they are: `roc_auc`, and, at the threshold, `recall`,
        `specificity` and `called_pneumonia`, the share of images that reach it.

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
    compare : With ``stress=True``, does it for every pipeline and puts intervals around the changes.
    ImageAugmenter : Changes training images, so that a model learns to bear with it.

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
    found = {}
    with progress_bar("Changing images", len(models) * len(frame), show=verbose > 0) as advance:
        for name, changed in models.items():
            score = scores_in_chunks(changed, frame["path"], advance)
            found[name] = _figures(frame["target"], score, threshold)
    return pd.DataFrame.from_dict(found, orient="index").rename_axis("change")


def _chosen(changes: Sequence[str] | Mapping[str, Change] | None) -> dict[str, Change]:
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
        if _UNSAID.search(repr(change)):
            raise InputError(
                f"the repr of the change {name!r} must say all of what it does, but is {change!r}; make it a frozen "
                "dataclass with a __call__"
            )
    return dict(changes)


def stressed_rows(name: str, model: Any, rows: pd.DataFrame, verbose: int, fold: int | None = None) -> pd.DataFrame:
    """Score changed images.

    Parameters
    ----------
    name : str
        Of the pipeline.
    model : Pipeline
        Fitted.
    rows : DataFrame
        With `path`, `patient`, `split` and `target`.
    verbose : int
        1 shows a progress bar.
    fold : int or None
        That `rows` were held out of. Rows of the images as they are come first then, probe "stress:clean": the scores
        that ``scores.csv`` has of them are of another fit, or calibrated on other folds.

    Returns
    -------
    DataFrame
        Rows of ``probes.csv``, `probe` "stress:bright" and so on; none where the pipeline loads its images itself.
    """
    models = {} if fold is None else {CLEAN: model}
    for change_name, change in CHANGES.items():
        changed = stressed(model, change)
        if changed is None:
            models = {}
            break
        models[change_name] = changed
    probes = {STRESS + change_name: changed for change_name, changed in models.items()}
    return probe_rows(name, probes, rows, title="Changing images", verbose=verbose, fold=fold)


def stressed_validation(name: str, fitted: Fitted, frame: pd.DataFrame, folds: Splits, verbose: int) -> pd.DataFrame:
    """Score changed validation images or, where these are too few to decide anything, the first fold of the training.

    Parameters
    ----------
    name : str
        Of the pipeline.
    fitted : Fitted
        The pipeline is fitted again, without the first fold, where that is what is scored.
    frame : DataFrame
        With `path`, `patient`, `split` and `target`; rows of the test split are left alone.
    folds : list of (ndarray, ndarray)
        Positions among the training rows.
    verbose : int
        1 shows progress bars.

    Returns
    -------
    DataFrame
        As :func:`stressed_rows`, calibrated as the other scores are.
    """
    model = fitted.model
    source, _ = images_to_choose_on(fitted.scores)
    if source == "val":
        changed = stressed_rows(name, model, frame[frame["split"] == "val"], verbose)
        return calibrated_rows(changed, fitted.calibrator)
    train = frame[frame["split"] == "train"]
    rows, held_out = (train.iloc[positions] for positions in folds[0])
    if stressed(model, CHANGES["combined"]) is None:
        return stressed_rows(name, model, held_out, verbose)  # none; a fit would be for nothing
    if len(folds) > 1:  # of one fold alone, the final model has not seen the images either
        with progress_bar(f"Fitting without the first fold, {name}", 1, show=verbose > 0) as advance:
            model = fit(fitted.pipeline, rows)
            advance(1)
    return calibrated_rows(stressed_rows(name, model, held_out, verbose, fold=0), fitted.calibrator)
