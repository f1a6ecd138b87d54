"""What is asked of a fitted pipeline besides the test images as they are: images that were changed on their way in."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import Pipeline
from sklearn.utils import Tags

from ..exceptions import DataError
from ..images import PassesImages
from ..loader import ImageLoader
from ..progress import progress_bar
from ..resampling import ResamplingClassifier
from ..scores import PredictedScores, pneumonia_scores
from .bootstrap import Draws, bootstrap, interval
from .scores import score_rows
from .tables import TABLES

_CHUNK_SIZE = 64
#: Where a wrapper keeps the fitted estimator that its images go to.
_INNER = {ResamplingClassifier: "estimator_", PredictedScores: "estimator", FrozenEstimator: "estimator"}


class ImageProbe(PassesImages, TransformerMixin, BaseEstimator, auto_wrap_output_keys=None):  # type: ignore[call-arg]
    """Base of the steps that change images on their way into a fitted pipeline; subclasses define ``transform``."""

    def fit(self, X: Any, y: Any = None) -> Self:
        """Do nothing: there is nothing to learn.

        Parameters
        ----------
        X, y : ignored
        """
        return self

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        tags.requires_fit = False
        return tags


def with_step_after_loader(model: Any, name: str, step: BaseEstimator) -> Any | None:
    """Return a fitted pipeline with one more step, right after its ImageLoader; the pipeline itself stays as it is.

    Parameters
    ----------
    model : Pipeline
        Fitted. The loader may be in a pipeline inside it, in a classifier that resamples or in a calibrated pipeline.
    name : str
    step : transformer of images
        Needs no fitting.

    Returns
    -------
    Pipeline or None
        It shares the fitted parts; None where no ImageLoader is found.
    """
    if isinstance(model, Pipeline):
        return _in_pipeline(model, name, step)
    attribute = next((attribute for kind, attribute in _INNER.items() if isinstance(model, kind)), None)
    inner = attribute and with_step_after_loader(getattr(model, attribute, None), name, step)
    if inner is None:
        return None
    changed = copy.copy(model)
    setattr(changed, str(attribute), inner)
    return changed


def _in_pipeline(model: Pipeline, name: str, step: BaseEstimator) -> Pipeline | None:
    for i, (own_name, own_step) in enumerate(model.steps):
        if isinstance(own_step, ImageLoader):
            return Pipeline([*model.steps[: i + 1], (name, step), *model.steps[i + 1 :]])
        inner = with_step_after_loader(own_step, name, step)
        if inner is not None:
            return Pipeline([*model.steps[:i], (own_name, inner), *model.steps[i + 1 :]])
    return None


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


def scores_of(probes: pd.DataFrame, probe: str, paths: pd.Series, lacking: str) -> np.ndarray | None:
    """Return the scores that a probe gave to images, shape (n,); None where it was not tried.

    Raises
    ------
    DataError
        If it was not tried on all of them; `lacking` says what there should be and what to do.
    """
    rows = probes[probes["probe"] == probe]
    if rows.empty:
        return None
    found = rows.set_index("path")["score"].reindex(paths).to_numpy(dtype=float)
    if np.isnan(found).any():
        raise DataError(f"probes.csv lacks {lacking}")
    return found


def auc_changes(
    rows: pd.DataFrame, scores: Mapping[str, np.ndarray], before: Draws
) -> tuple[dict[str, dict[str, Any]], dict[str, np.ndarray]]:
    """Compare the ROC AUC of probes with that of the same images as they are.

    Parameters
    ----------
    rows : DataFrame
        With `patient`, `target` and `score`, that of the images as they are.
    scores : mapping of str to ndarray of shape (n,)
        By probe.
    before : Draws
        Of the images as they are.

    Returns
    -------
    facts : dict of str to dict
        By probe: "roc_auc", "change" and the "ci95" of that, by paired bootstrap of patients.
    drawn : dict of str to ndarray of shape (n_draws,)
        The draws of the change.
    """
    draws = bootstrap(rows["patient"], rows["target"], scores, dict.fromkeys(scores, 0.5))
    drawn = {probe: draws[probe].metrics["roc_auc"] - before.metrics["roc_auc"] for probe in scores}
    auc = roc_auc_score(rows["target"], rows["score"])
    facts = {probe: auc_change(auc, _auc(rows["target"], score), drawn[probe]) for probe, score in scores.items()}
    return facts, drawn


def auc_change(before: float, after: float, drawn: np.ndarray) -> dict[str, Any]:
    """Describe the change from one ROC AUC to another, given draws of it."""
    change = float(after - before)
    return {"roc_auc": after, "change": change, "ci95": interval(drawn, change)}


def _auc(target: ArrayLike, score: ArrayLike) -> float:
    return float(roc_auc_score(target, score))
