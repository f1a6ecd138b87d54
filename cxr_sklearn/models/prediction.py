"""Scores and decisions for new images: one row per image, with the reason if it has no score."""

from __future__ import annotations

import os
from collections.abc import Iterable

import numpy as np
import pandas as pd
from sklearn.pipeline import Pipeline

from .._io import user_path_text
from .._settings import usual_settings
from .._validation import checks_types
from ..exceptions import InputError
from ..features._image_stats import image_stats
from ..features.shortcuts import ShortcutFeatures
from ._steps import keeps_nothing, steps_of
from .exported import ExportedModel
from .model import CXRModel, as_model


@usual_settings
@checks_types
def predict(
    model: CXRModel | ExportedModel | Pipeline,
    paths: Iterable[str | os.PathLike[str]],
    *,
    store: str | os.PathLike[str] | None = "auto",
    verbose: int = 0,
) -> pd.DataFrame:
    """Score images, and decide at the threshold of the model.

    Parameters
    ----------
    model : CXRModel, ExportedModel or fitted Pipeline
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
    if not isinstance(model, ExportedModel):
        model = as_model(model)
    if isinstance(paths, str | os.PathLike | pd.DataFrame):
        raise InputError(f"paths must be a list or Series of paths, not a {type(paths).__name__}")
    listed = [user_path_text(path) for path in paths]
    if not listed:
        raise InputError("there are no images to score")
    if isinstance(model, ExportedModel):
        table = pd.DataFrame(model.predict_files(listed, verbose=verbose))
        return table.astype({"score": float, **dict.fromkeys(("path", "decision", "domain", "error"), "str")})
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
