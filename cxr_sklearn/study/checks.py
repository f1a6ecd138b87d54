"""What a run refuses before any image is opened."""

from __future__ import annotations

import os
from collections.abc import Sequence
from numbers import Integral
from typing import Any

import pandas as pd
from sklearn.pipeline import Pipeline

from ..datasets.folder import checked_frame
from ..domain import DomainDetector
from ..evaluation.anatomy import crop_of
from ..evaluation.calibration import METHODS as CALIBRATIONS
from ..exceptions import DataError, InputError, RecipeError
from ..recipes import Recipe, load_recipe
from ..resampling import METHODS

CLASSES = ((0, "normal"), (1, "pneumonia"))


def check_options(balance: str, calibrate: str | None, cv: Any, n_jobs: Any) -> None:
    """See that options are among those that there are.

    Raises
    ------
    ValueError
        If one is not.
    """
    for name, value, known in (("balance", balance, METHODS), ("calibrate", calibrate, (None, *CALIBRATIONS))):
        if value not in known:
            raise InputError(f"{name}={value!r} must be one of {known}")
    if not isinstance(cv, Integral) or cv < 1:
        raise InputError(f"cv={cv!r} must be an integer of at least 1")
    if n_jobs is not None and (not isinstance(n_jobs, Integral) or n_jobs == 0):
        raise InputError(f"n_jobs={n_jobs!r} must be None or an integer other than 0; -1 is all cores")


def images_of(frame: pd.DataFrame, splits: Sequence[str], *, with_both_classes: Sequence[str], cv: int) -> pd.DataFrame:
    """Return the images of a table that are in some splits, or say why no run can be made of them.

    Parameters
    ----------
    frame : DataFrame
        As :func:`load_folder` returns it.
    splits : sequence of str
    with_both_classes : sequence of str
        Those that must have images of both classes.
    cv : int
        Folds that the training patients of each class must be enough for.

    Raises
    ------
    DataError
        If the table is none that :func:`checked_frame` takes, a split lacks a class, or patients are too few.
    """
    if isinstance(frame, pd.DataFrame) and "split" in frame:
        frame = frame[frame["split"].notna()]
    frame = checked_frame(frame)
    frame = frame[frame["split"].isin(splits)]
    for split in with_both_classes:
        for target, label in CLASSES:
            if not ((frame["split"] == split) & (frame["target"] == target)).any():
                raise DataError(f"there are no {label} images in the {split} split, which needs both classes")
    for target, label in CLASSES:
        n = frame[(frame["split"] == "train") & (frame["target"] == target)]["patient"].nunique()
        if n < max(cv, 2):
            wanted = f"{cv} folds; add images or ask for fewer folds" if cv > 1 else "any to be held out; add images"
            raise DataError(f"{n} {label} patients in the train split are too few for {wanted}")
    return frame


class Domains:
    """Detectors of images unlike the training images: one for each part of the images that a model looks at.

    Parameters
    ----------
    store : str, path or None
    train : DataFrame
        With `path` and `patient`.
    """

    def __init__(self, store: str | os.PathLike[str] | None, train: pd.DataFrame) -> None:
        self._store, self._train = store, train
        self._fitted: dict[float, DomainDetector] = {}

    def of(self, pipeline: Pipeline) -> DomainDetector:
        """Return the one that looks at what a pipeline looks at.

        Raises
        ------
        ValueError
            If the images are too few.
        ImageReadError
            If images cannot be read.
        """
        crop = crop_of(pipeline)
        if crop not in self._fitted:
            detector = DomainDetector(self._store, crop)
            self._fitted[crop] = detector.fit(self._train["path"], groups=self._train["patient"])
        return self._fitted[crop]


def load_recipes(
    pipelines: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None, otherwise: Sequence[str]
) -> list[Recipe]:
    """Load recipes by name or path, or others where none are named.

    Raises
    ------
    RecipeError
        If one cannot be loaded, or two have the same name.
    """
    if isinstance(pipelines, str | os.PathLike):
        pipelines = [pipelines]
    recipes = [load_recipe(name) for name in pipelines or otherwise]
    if len({recipe.name for recipe in recipes}) < len(recipes):
        raise RecipeError("two recipes have the same name; rename one of the files")
    return recipes
