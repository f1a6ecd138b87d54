"""How a classifier holds up on changed images: another exposure, another scanner, a patient who lies askew.

Validation images are drawn as training images are, so good classifiers are all near perfect on them, and the best of
them there need not be the best elsewhere. On images that are changed, they part.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from ..exceptions import DataError, InputError
from ..images import ImageBatch, as_batch
from ..progress import progress_bar
from .bootstrap import bootstrap, interval
from .metrics import compute_metrics
from .probes import ImageProbe, auc_change, auc_changes, probe_rows, scores_in_chunks, scores_of, with_step_after_loader
from .search import Splits, fit
from .tables import CLEAN, STRESS
from .thresholds import images_to_choose_on

#: From grey pixels of any size, ``uint8 (H, W)``, to such. Its ``repr`` goes into content keys.
Change = Callable[[np.ndarray], np.ndarray]
#: What Python prints for a function, and NumPy for the middle of a large array: others look the same.
_UNSAID = re.compile(r" at 0x[0-9a-fA-F]+|\.\.\.")


def _grey(levels: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Exposure:
    """Multiply the contrast about mid grey, then add grey levels."""

    contrast: float
    levels: float

    def __call__(self, grey: np.ndarray) -> np.ndarray:
        """Return the changed image, ``uint8 (H, W)``."""
        return _grey((grey.astype(np.float32) - 127.5) * self.contrast + 127.5 + self.levels)


@dataclass(frozen=True)
class Gamma:
    """Raise grey levels, as shares of white, to a power: above 1, middle tones get darker."""

    exponent: float

    def __call__(self, grey: np.ndarray) -> np.ndarray:
        """Return the changed image, ``uint8 (H, W)``."""
        return _grey(255 * (grey.astype(np.float32) / 255) ** self.exponent)


@dataclass(frozen=True)
class Blur:
    """Resize to a square of `side` pixels and back."""

    side: int

    def __call__(self, grey: np.ndarray) -> np.ndarray:
        """Return the changed image, ``uint8 (H, W)``."""
        image = Image.fromarray(grey)
        small = image.resize((self.side, self.side), Image.Resampling.BILINEAR)
        return np.asarray(small.resize(image.size, Image.Resampling.BILINEAR))


@dataclass(frozen=True)
class Collimation:
    """Darken the top and brighten the bottom by up to `levels`, and blacken a part of the width on either side."""

    levels: float
    margin: float

    def __call__(self, grey: np.ndarray) -> np.ndarray:
        """Return the changed image, ``uint8 (H, W)``."""
        height, width = grey.shape
        changed = _grey(grey + np.linspace(-self.levels, self.levels, height, dtype=np.float32)[:, None])
        n_black = round(self.margin * width)
        changed[:, :n_black] = 0
        changed[:, width - n_black :] = 0
        return changed


@dataclass(frozen=True)
class Rotation:
    """Turn counter-clockwise about the centre; the corners are black."""

    degrees: float

    def __call__(self, grey: np.ndarray) -> np.ndarray:
        """Return the changed image, ``uint8 (H, W)``."""
        return np.asarray(Image.fromarray(grey).rotate(self.degrees, Image.Resampling.BILINEAR))


@dataclass(frozen=True)
class Noise:
    """Add the same normal noise to every image, drawn on a square grid that is stretched over it."""

    sd: float
    side: int
    seed: int

    def __call__(self, grey: np.ndarray) -> np.ndarray:
        """Return the changed image, ``uint8 (H, W)``."""
        height, width = grey.shape
        drawn = np.random.default_rng(self.seed).normal(0, self.sd, (self.side, self.side)).astype(np.float32)
        stretched = Image.fromarray(drawn).resize((width, height), Image.Resampling.NEAREST)
        return _grey(grey + np.asarray(stretched))


@dataclass(frozen=True)
class Shrinking:
    """Scale height and width by a factor below 1, and put the image in the middle of a black one of the old size."""

    factor: float

    def __call__(self, grey: np.ndarray) -> np.ndarray:
        """Return the changed image, ``uint8 (H, W)``."""
        height, width = (max(1, round(self.factor * side)) for side in grey.shape)
        top, left = (grey.shape[0] - height) // 2, (grey.shape[1] - width) // 2
        changed = np.zeros_like(grey)
        small = Image.fromarray(grey).resize((width, height), Image.Resampling.BILINEAR)
        changed[top : top + height, left : left + width] = small
        return changed


@dataclass(frozen=True)
class InTurn:
    """Several changes, one after the other."""

    changes: tuple[Change, ...]

    def __call__(self, grey: np.ndarray) -> np.ndarray:
        """Return the changed image, ``uint8 (H, W)``."""
        for change in self.changes:
            grey = change(grey)
        return grey


_bright, _blurred, _collimated, _tilted = Exposure(0.65, 45), Blur(80), Collimation(40, 0.1), Rotation(10)
#: What :func:`stress_test` and `compare --stress` try, by name.
CHANGES: dict[str, Change] = {
    "bright": _bright,
    "gamma": Gamma(1.8),
    "blurred": _blurred,
    "collimated": _collimated,
    "tilted": _tilted,
    "noisy": Noise(18, 112, 0),
    "small": Shrinking(0.82),
    "combined": InTurn((_tilted, _bright, _blurred, _collimated)),
}


class ImageStresser(ImageProbe):
    """Change every image as it is read, before any part of it is cut off and before it is resized.

    Parameters
    ----------
    change : callable
        From grey pixels of any size, ``uint8 (H, W)``, to such; its ``repr`` says all of what it does.
    """

    def __init__(self, change: Change) -> None:
        self.change = change

    def transform(self, X: Any) -> ImageBatch:
        """Return the changed images, not opened yet.

        Parameters
        ----------
        X : ImageBatch of n images
            As an :class:`ImageLoader` returns it.

        Raises
        ------
        ValueError
            If `X` was not loaded by an ImageLoader.
        """
        return as_batch(X).changed(self.change)


def stressed(model: Any, change: Change) -> Any | None:
    """Return a fitted pipeline that sees changed images; None where it loads none by an ImageLoader."""
    return with_step_after_loader(model, "stress", ImageStresser(change))


def stress_test(
    model: Pipeline,
    frame: pd.DataFrame,
    changes: Sequence[str] | Mapping[str, Change] | None = None,
    *,
    threshold: float = 0.5,
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
    threshold : float, default=0.5
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
    >>> from cxr_sklearn import load, load_folder, stress_test
    >>> frame = load_folder("chest_xray")  # doctest: +SKIP
    >>> val = frame[frame["split"] == "val"]  # doctest: +SKIP
    >>> stress_test(load("pneumonia.skops"), val, ["tilted", "noisy"])  # doctest: +SKIP
              roc_auc  recall  specificity  called_pneumonia
    change
    clean       0.991   0.963        0.948             0.714
    tilted      0.972   0.981        0.794             0.762
    noisy       0.954   0.741        0.962             0.548
    """
    chosen = _chosen(changes)
    if not 0 <= threshold <= 1:
        raise InputError(f"threshold={threshold!r} must be a number from 0 to 1")
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


def _figures(target: pd.Series, score: np.ndarray, threshold: float) -> dict[str, float]:
    values = compute_metrics(target, score, threshold)
    called = float(np.mean(np.asarray(score) >= threshold))
    return {**{name: values[name] for name in ("roc_auc", "recall", "specificity")}, "called_pneumonia": called}


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


def stressed_validation(
    name: str,
    pipeline: Pipeline,
    model: Pipeline,
    frame: pd.DataFrame,
    *,
    scores: pd.DataFrame,
    folds: Splits,
    verbose: int,
) -> pd.DataFrame:
    """Score changed validation images or, where these are too few to decide anything, the first fold of the training.

    Parameters
    ----------
    name : str
        Of the pipeline.
    pipeline : Pipeline
        With the best parameters; fitted again, without the first fold, where that is what is scored.
    model : Pipeline
        The final one, fitted on all training images.
    frame : DataFrame
        With `path`, `patient`, `split` and `target`; rows of the test split are left alone.
    scores : DataFrame
        Rows of ``scores.csv`` of this pipeline, which say whether validation decides.
    folds : list of (ndarray, ndarray)
        Positions among the training rows.
    verbose : int
        1 shows progress bars.

    Returns
    -------
    DataFrame
        As :func:`stressed_rows`.
    """
    source, _ = images_to_choose_on(scores)
    if source == "val":
        return stressed_rows(name, model, frame[frame["split"] == "val"], verbose)
    train = frame[frame["split"] == "train"]
    fitted, held_out = (train.iloc[rows] for rows in folds[0])
    if stressed(model, CHANGES["combined"]) is None:
        return stressed_rows(name, model, held_out, verbose)  # none; a fit would be for nothing
    if len(folds) > 1:  # of one fold alone, the final model has not seen the images either
        with progress_bar(f"Fitting without the first fold, {name}", 1, show=verbose > 0) as advance:
            model = fit(pipeline, fitted)
            advance(1)
    return stressed_rows(name, model, held_out, verbose, fold=0)


def stress_facts(scores: pd.DataFrame, probes: pd.DataFrame, threshold: float) -> dict[str, Any] | None:
    """Say how a pipeline did on changed images.

    Parameters
    ----------
    scores, probes : DataFrame
        Rows of ``scores.csv`` and ``probes.csv`` of the pipeline.
    threshold : float
        Its threshold.

    Returns
    -------
    dict or None
        "source", which is "val" or "held-out"; "n_images" and "n_patients"; the "clean" images and, by name, the
        "changes", each with "roc_auc", "recall", "specificity" and "called_pneumonia" (the share that reaches the
        threshold); their "mean" over the changes. "ci95" is of the AUC of clean images, and elsewhere of its "change"
        against them, by paired bootstrap of patients. None where nothing was tried.

    Raises
    ------
    DataError
        If not all images were changed.
    """
    refitted = probes[probes["probe"] == STRESS + CLEAN]
    rows = refitted if len(refitted) else scores[scores["split"] == "val"]
    changed = {}
    for name in CHANGES:
        lacking = f"images under the change {name!r}; `compare --stress` writes it anew"
        score = scores_of(probes, STRESS + name, rows["path"], lacking)
        if score is not None:
            changed[name] = score
    if not changed:
        return None
    before = bootstrap(rows["patient"], rows["target"], {CLEAN: rows["score"]}, {CLEAN: threshold})[CLEAN]
    aucs, drawn = auc_changes(rows, changed, before)
    clean = _figures(rows["target"], rows["score"].to_numpy(dtype=float), threshold)
    facts = {name: {**_figures(rows["target"], score, threshold), **aucs[name]} for name, score in changed.items()}
    means = {key: float(np.mean([fact[key] for fact in facts.values()])) for key in clean}
    return {
        "source": "held-out" if len(refitted) else "val",
        "n_images": len(rows),
        "n_patients": int(rows["patient"].nunique()),
        CLEAN: {**clean, "ci95": interval(before.metrics["roc_auc"], clean["roc_auc"])},
        "changes": facts,
        "mean": {**means, **auc_change(clean["roc_auc"], means["roc_auc"], np.mean(list(drawn.values()), axis=0))},
    }
