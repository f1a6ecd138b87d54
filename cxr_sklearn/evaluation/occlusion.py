"""Half of an image hidden: a classifier that does as well without the lungs as with them has learnt something else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import Pipeline
from sklearn.utils import Tags

from ..exceptions import DataError, InputError
from ..images import ImageBatch, PassesImages, as_batch
from ..loader import ImageLoader
from ..progress import progress_bar
from ..scores import pneumonia_scores
from .bootstrap import Draws, bootstrap, interval
from .scores import score_rows
from .tables import TABLES

PARTS = ("border", "centre")
_CHUNK_SIZE = 64


@dataclass(frozen=True)
class Occlusion:
    """Paint a part of an image in its mean grey level.

    The centre is the middle 71 % of height and width, the border is everything around it: each is half of the image.
    """

    part: str

    def __call__(self, grey: np.ndarray, key: bytes) -> np.ndarray:
        """Return the image with the part hidden, ``uint8 (H, W)``."""
        inside = np.zeros(grey.shape, dtype=bool)
        height, width = grey.shape
        top, left = round(height * (1 - 0.5**0.5) / 2), round(width * (1 - 0.5**0.5) / 2)
        inside[top : height - top, left : width - left] = True
        return np.where(inside == (self.part == "centre"), np.uint8(round(grey.mean())), grey)


class ImageOccluder(PassesImages, TransformerMixin, BaseEstimator, auto_wrap_output_keys=None):  # type: ignore[call-arg]
    """Hide the border or the centre of every image.

    A classifier that does as well without the lungs as with them has learnt something else.

    Parameters
    ----------
    part : {"border", "centre"}, default="border"
        What to hide; either is half of the image.

    References
    ----------
    Maguolo, Nanni (2021). A critic evaluation of methods for COVID-19 automatic detection from X-ray images.
    Information Fusion 76, 1-7.
    """

    def __init__(self, part: str = "border") -> None:
        self.part = part

    def fit(self, X: Any, y: Any = None) -> Self:
        """Do nothing: there is nothing to learn.

        Parameters
        ----------
        X, y : ignored
        """
        return self

    def transform(self, X: Any) -> ImageBatch:
        """Return the images with a part hidden.

        Parameters
        ----------
        X : ImageBatch of n images, or ndarray of shape (n, H, W[, C]) and dtype uint8

        Raises
        ------
        ValueError
            If there is no such part, or `X` is not images.
        """
        if self.part not in PARTS:
            raise InputError(f"part={self.part!r} must be one of {PARTS}")
        return as_batch(X).augmented(Occlusion(self.part), 1)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        tags.requires_fit = False
        return tags


def occluded(model: Pipeline, part: str) -> Pipeline | None:
    """Return a fitted pipeline that sees images with a part hidden; None where it loads none by an ImageLoader."""
    places = [i for i, (_, step) in enumerate(model.steps) if isinstance(step, ImageLoader)]
    if not places:
        return None
    after = places[0] + 1
    return Pipeline([*model.steps[:after], ("occlude", ImageOccluder(part)), *model.steps[after:]])


def occluded_rows(name: str, model: Pipeline, test: pd.DataFrame, verbose: int) -> pd.DataFrame:
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
    chunks = [test.iloc[start : start + _CHUNK_SIZE] for start in range(0, len(test), _CHUNK_SIZE)]
    parts = [pd.DataFrame(columns=list(TABLES["probes"].columns))]
    with progress_bar(f"Occluding images, {name}", len(PARTS) * len(test), show=verbose > 0) as advance:
        for part in PARTS:
            blinded = occluded(model, part)
            if blinded is None:
                break
            scores = []
            for chunk in chunks:
                scores.append(pneumonia_scores(blinded, chunk["path"]))
                advance(len(chunk))
            parts.append(score_rows(test, name, np.concatenate(scores)).assign(probe=part))
    return pd.concat(parts)


def occlusion_facts(test: pd.DataFrame, probes: pd.DataFrame, whole: Draws) -> dict[str, Any]:
    """Compare the ROC AUC on occluded test images with that on whole ones.

    Parameters
    ----------
    test : DataFrame
        Test rows of ``scores.csv`` of one pipeline.
    probes : DataFrame
        Rows of ``probes.csv`` of the same pipeline.
    whole : Draws
        Of the test images as they are.

    Returns
    -------
    dict of str to dict
        By part: "roc_auc", "change" (against whole images) and the "ci95" of that, by paired bootstrap of patients.

    Raises
    ------
    DataError
        If not all test images were occluded.
    """
    hidden = {}
    for part in PARTS:
        rows = probes[probes["probe"] == part]
        if len(rows):
            hidden[part] = rows.set_index("path")["score"].reindex(test["path"]).to_numpy(dtype=float)
            if np.isnan(hidden[part]).any():
                raise DataError(f"probes.csv lacks test images without their {part}; `compare --sanity` writes it anew")
    draws = bootstrap(test["patient"], test["target"], hidden, dict.fromkeys(hidden, 0.5))
    auc = roc_auc_score(test["target"], test["score"])
    found = {}
    for part, score in hidden.items():
        occluded_auc = float(roc_auc_score(test["target"], score))
        change = float(occluded_auc - auc)
        drawn = draws[part].metrics["roc_auc"] - whole.metrics["roc_auc"]
        found[part] = {"roc_auc": occluded_auc, "change": change, "ci95": interval(drawn, change)}
    return found
