"""Scores and decisions for new images: one row per image, with the reason if it has no score."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable

import numpy as np
import pandas as pd
from sklearn.pipeline import Pipeline

from .._io import user_path, user_path_text
from .._settings import usual_settings
from .._validation import checks_types
from ..datasets._frame import counted
from ..datasets._walk import other_kind, walk
from ..exceptions import DataError, InputError
from ..features._image_stats import image_stats
from ..features.shortcuts import ShortcutFeatures
from ._steps import keeps_nothing, steps_of
from .model import CXRModel, as_model


def image_paths(places: Iterable[str | os.PathLike[str]]) -> list[str]:
    """Return files as they are and folders as the image files below them, sorted; nothing twice, and nothing hidden.

    Raises
    ------
    DataError
        If a folder holds no image files or cannot be read, or a path is empty.

    Warns
    -----
    UserWarning
        If a folder also holds images of kinds that are not read.
    """
    found: dict[str, None] = {}
    passed_by: list[str] = []
    for place in (os.fspath(place) for place in places):
        if not place:
            raise DataError("a path is empty")
        path = user_path(place)
        if path.suffix.lower() in (".csv", ".tsv") and path.is_file():
            raise DataError(f"{path} is a table; give its images, or their paths on stdin and - for them")
        if reason := other_kind(path):
            raise DataError(reason)
        if not path.is_dir():
            found[_plain(path)] = None
            continue
        folders = list(walk(path))
        passed_by += (other for folder in folders for other in folder.passed_by)
        below = sorted(_plain(image) for folder in folders for image in folder.images)
        if not below:
            raise DataError(f"{path} holds no image files" + (f"; {_not_read(passed_by)}" if passed_by else ""))
        found |= dict.fromkeys(below)
    if passed_by:
        warnings.warn(_not_read(passed_by), stacklevel=2)
    return list(found)


def _plain(path: str | os.PathLike[str]) -> str:
    plain = os.path.normpath(path)
    return os.fspath(path) if plain.startswith("~") else plain  # ./~ is not the home folder


def _not_read(paths: list[str]) -> str:
    more = f" and {len(paths) - 3:,} more" if len(paths) > 3 else ""
    return (
        f"{counted(len(paths), 'image file')} of a kind that is not read, skipped: {', '.join(paths[:3])}{more}; "
        "DICOM files must end in .dcm"
    )


@usual_settings
@checks_types
def predict(
    model: CXRModel | Pipeline,
    paths: Iterable[str | os.PathLike[str]],
    *,
    store: str | os.PathLike[str] | None = "auto",
    verbose: int = 0,
) -> pd.DataFrame:
    """Score images, and decide at the threshold of the model.

    Parameters
    ----------
    model : CXRModel or fitted Pipeline
        A pipeline decides at 0.5.
    paths : iterable of n paths
    store : str, path or None, default="auto"
        Where the statistics of the images are kept, as for :class:`FrozenEmbedder`; "auto" keeps none for a model that
        was trained without a store. Where the model itself keeps features, :func:`load_model` was asked.
    verbose : int, default=0
        1 shows progress bars.

    Returns
    -------
    DataFrame of n rows
        `path`; `score`, the probability of pneumonia; `decision` ("pneumonia" or "normal") at `threshold`; `domain`:
        "in" where the image looks like those the model was trained on, "out" where it does not and its score means
        nothing, NA where the model cannot tell; and `error`, why there is neither score nor decision.

    Raises
    ------
    ValueError
        If `paths` is empty, a single path or a frame.
    ModelError
        If the model gives no probabilities of 0 (normal) and 1 (pneumonia).
    WeightsUnavailableError, StoreError
        As the pipeline does.
    """
    model = as_model(model)
    if isinstance(paths, str | os.PathLike | pd.DataFrame):
        raise InputError(f"paths must be a list or Series of paths, not a {type(paths).__name__}")
    listed = [user_path_text(path) for path in paths]
    if not listed:
        raise InputError("there are no images to score")
    if store == "auto" and keeps_nothing(model):
        store = None
    # As the detector looks at them, so that no image is measured twice.
    crop = 1.0 if model.domain is None else model.domain.crop
    stats = image_stats(listed, store, "Reading images", verbose, crop=crop, strict=False)
    sees_stats_alone = crop == 1 and isinstance(steps_of(model.pipeline)[0], ShortcutFeatures)
    table = pd.DataFrame({"path": listed})
    table["error"] = table["path"].map(stats.failures).astype("str")
    readable = table["error"].isna()
    scores, decision = np.full(len(table), np.nan), np.full(len(table), None, dtype=object)
    domain = decision.copy()
    if readable.any():
        X = stats.rows[readable] if sees_stats_alone else table.loc[readable, "path"]
        probabilities = model.predict_proba(X)
        scores[readable] = probabilities[:, 1]
        decision[readable] = np.take(model.class_names, model.decide(probabilities))
        table.loc[readable & ~np.isfinite(scores), "error"] = "the model gives it no score"
        readable = table["error"].isna()
        if model.domain is not None and readable.any():
            domain[readable] = np.where(model.domain.predict(stats.rows[readable]) == 1, "in", "out")
    return pd.DataFrame(
        {
            "path": table["path"],
            "score": scores,
            "decision": pd.Series(decision, dtype="str").where(readable),
            "threshold": model.threshold,
            "domain": pd.array(domain, dtype="str"),
            "error": table["error"],
        }
    )
