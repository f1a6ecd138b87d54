"""Half of an image hidden: a classifier that does as well without the lungs as with them has learnt something else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..exceptions import InputError
from ..images import ImageBatch, as_batch
from .bootstrap import Draws
from .probes import ImageProbe, auc_changes, probe_rows, scores_of, with_step_after_loader

PARTS = ("border", "centre")


@dataclass(frozen=True, repr=False)
class Occlusion:
    """Paint a part of an image in its mean grey level.

    The centre is the middle 71 % of height and width, the border is everything around it: each is half of the image.
    """

    part: str

    def __repr__(self) -> str:
        return f"Occlusion(part={str(self.part)!r})"  # in content keys

    def __call__(self, grey: np.ndarray, key: bytes) -> np.ndarray:
        """Return the image with the part hidden, ``uint8 (H, W)``."""
        inside = np.zeros(grey.shape, dtype=bool)
        height, width = grey.shape
        top, left = round(height * (1 - 0.5**0.5) / 2), round(width * (1 - 0.5**0.5) / 2)
        inside[top : height - top, left : width - left] = True
        return np.where(inside == (self.part == "centre"), np.uint8(round(grey.mean())), grey)


class ImageOccluder(ImageProbe):
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


def occluded(model: Any, part: str) -> Any | None:
    """Return a fitted pipeline that sees images with a part hidden; None where it loads none by an ImageLoader."""
    return with_step_after_loader(model, "occlude", ImageOccluder(part))


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
        lacking = f"test images without their {part}; `compare --sanity` writes it anew"
        score = scores_of(probes, part, test["path"], lacking)
        if score is not None:
            hidden[part] = score
    facts, _ = auc_changes(test, hidden, whole)
    return facts
